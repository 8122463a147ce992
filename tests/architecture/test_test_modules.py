"""What tests share is in tests/support: whoever changes one test module breaks no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import spreading
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


def test_a_module_stays_in_one_process_and_so_does_all_that_shares_the_engine() -> None:
    scheduler = object.__new__(spreading.ByModule)
    groups = {
        scheduler._split_scope(name)
        for name in (
            "tests/integration/test_agent_docker.py::test_one",
            "tests/integration/test_docker_runner.py::test_two[a::b@c]",
        )
    }
    assert len(groups) == 1
    alone = "tests/unit/gateway/auth/test_tokens.py"
    assert (
        scheduler._split_scope(f"{alone}::test_one") == scheduler._split_scope(f"{alone}::test_two") == alone
    )
