"""Importing a module reads no settings and draws no random numbers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import ROOT

_FOLDERS = ("nodepool", "gateway", "dispatcher", "worker_agent", "hivemind", "local_pool", "benchmarks")
_FORBIDDEN = (
    "Settings",
    "SystemRandom",
    "Random",
    "token_hex",
    "token_bytes",
    "token_urlsafe",
    "urandom",
    "getenv",
)
# Celery imports them; the second takes over what its parent hands to it (nodepool.hardening).
_DOORS = {"celeryconfig.py", "dispatcher/__init__.py"}


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: everything but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "__main__" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def read_at_import(source: str) -> list[str]:
    found = []
    for node in at_import(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in _FORBIDDEN:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ":
            found.append("os.environ")
    return found


def test_no_module_reads_settings_or_draws_at_import() -> None:
    files = [path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    found = {
        str(path.relative_to(ROOT)): read
        for path in files
        if str(path.relative_to(ROOT)) not in _DOORS and (read := read_at_import(path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "settings = Settings()",
        "_RANDOM = secrets.SystemRandom()",
        "class A:\n    mark = secrets.token_hex(3)",
        "X = os.environ['X']",
    ],
)
def test_what_is_read_at_import_is_found(source: str) -> None:
    assert read_at_import(source)
    body = "\n".join(f"    {line}" for line in source.splitlines())
    assert not read_at_import(f"def main():\n{body}")


def test_the_doors_are_there() -> None:
    assert all(Path(ROOT, name).exists() for name in _DOORS)
