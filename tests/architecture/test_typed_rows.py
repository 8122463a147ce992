"""Rows of SQL are seen by the SQL stores alone; everybody else gets frozen dataclasses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.environment import ROOT

_STORES = ROOT / "nodepool/stores/sql"
_FOLDERS = ("gateway", "dispatcher", "worker_agent", "hivemind", "local_pool", "nodepool", "benchmarks")
_ROW_NAMES = {"Row", "RowMapping"}
# What makes a dataclass of a row, and what the checks of the ledger read entries with, by the thousand.
_MAKERS = {"from_row", "from_rows", "from_row_or_none", "stream"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _naming_rows(tree: ast.Module) -> Iterator[int]:
    """Lines that take sqlalchemy's rows by name."""
    for node in ast.walk(tree):
        imported = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        if imported and _ROW_NAMES & {alias.name for alias in node.names}:
            yield node.lineno
        if isinstance(node, ast.Attribute) and node.attr in _ROW_NAMES:
            yield node.lineno


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Those that others may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (it for it in node.body if isinstance(it, ast.FunctionDef))


def _names_a_row(function: ast.FunctionDef) -> bool:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    annotations = [function.returns, *(argument.annotation for argument in every)]
    return any(
        isinstance(node, ast.Name) and node.id in _ROW_NAMES
        for annotation in annotations
        if annotation is not None
        for node in ast.walk(annotation)
    )


def test_nobody_but_the_sql_stores_names_a_row() -> None:
    paths = [path for folder in _FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    outside = [path for path in paths if not path.is_relative_to(_STORES)]
    assert len(outside) > 100
    found = [f"{path.relative_to(ROOT)}:{line}" for path in outside for line in _naming_rows(_tree(path))]
    assert not found, f"take a dataclass of nodepool.stores.sql instead: {', '.join(found)}"


def test_no_store_takes_or_gives_a_row() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {function.name}"
        for path in sorted(_STORES.rglob("*.py"))
        for function in _functions(_tree(path))
        if not function.name.startswith("_") and function.name not in _MAKERS and _names_a_row(function)
    ]
    assert not found, f"give a frozen dataclass that is FromRow: {', '.join(found)}"


def test_rows_and_functions_that_name_them_are_found() -> None:
    tree = ast.parse(
        "from sqlalchemy import Row\ndef find() -> list[Row[int]]: ...\ndef _own(row: Row[int]): ..."
    )
    assert list(_naming_rows(tree)) == [1]
    assert [function.name for function in _functions(tree) if _names_a_row(function)] == ["find", "_own"]
