"""What tests share is in tests/support: whoever changes one test module breaks no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import ROOT

# What pytest collects from, and what only pytest itself may load.
SUITES = ("architecture", "e2e", "fault", "integration", "unit")


def imported(module: Path) -> Iterator[str]:
    """The names of modules, and of what is taken from them, that a file imports."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", ["support", *SUITES])
def test_no_module_imports_a_test_module_or_a_conftest(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "tests" / folder).rglob("*.py"))
        for name in imported(path)
        if any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert found == []
