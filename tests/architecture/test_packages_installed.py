"""What is installed without a checkout is all of it: a folder that setuptools does not name is missing."""

from __future__ import annotations

import tomllib

from tests.support.environment import ROOT

PRODUCT = ("proto", "gateway", "dispatcher", "worker_agent", "nodepool", "local_pool", "hivemind")


def test_every_package_of_the_product_is_installed() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for folder in PRODUCT
        for file in (ROOT / folder).rglob("__init__.py")
    }
    assert set(named) == there
