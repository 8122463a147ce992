"""What pre-commit runs is what `make check` runs, and CI with it."""

from __future__ import annotations

import re

import yaml

from tests.support.environment import ROOT


def test_every_check_of_the_makefile_is_a_hook_and_no_other_is() -> None:
    target = re.search(r"^check: install\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert target is not None
    checks = {
        line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in target[1].splitlines()
    }
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {hook["entry"] for hook in repo["hooks"]} == checks
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
