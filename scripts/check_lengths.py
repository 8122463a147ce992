"""Fail on files over 400 lines and functions over 50: both are easier to split early than late."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MAX_FILE_LINES = 400
SOFT_FILE_LINES = 200
MAX_FUNCTION_LINES = 50
ROOTS = (
    "gateway",
    "dispatcher",
    "worker_agent",
    "nodepool",
    "local_pool",
    "hivemind",
    "benchmarks",
    "scripts",
    "examples",
)


def problems(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found = []
    lines = text.count("\n")
    if lines > MAX_FILE_LINES:
        found.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"
                )
    return found


def main() -> int:
    files = [
        path
        for root in ROOTS
        for path in sorted(Path(root).rglob("*.py"))
        if "_pb2" not in path.name and path.parent.name != "versions"
    ]
    found = [problem for path in files for problem in problems(path)]
    print("\n".join(found) if found else f"lengths: {len(files)} files are fine")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
