"""The house: no module reaches itself by what it imports, every room has a storey, the rules know only rules.

Imports under TYPE_CHECKING and inside functions count: a guard hides a circle, it does not open it.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.environment import ROOT

PACKAGES = (
    "nodepool",
    "gateway",
    "dispatcher",
    "worker_agent",
    "hivemind",
    "local_pool",
    "benchmarks",
    "scripts",
)
# What of Python's own library is arithmetic on what is passed in.
PURE = {
    "__future__", "base64", "binascii", "collections", "copy", "dataclasses", "difflib", "enum", "fractions",
    "graphlib", "hashlib", "heapq", "hmac", "ipaddress", "json", "lzma", "math", "re", "stat", "statistics",
    "struct", "types", "typing", "unicodedata", "urllib", "zipfile", "zlib",
}  # fmt: skip
# Guarded because names are looked up when they are first used, so that `import hivemind` stays quick.
LAZY = frozenset({"hivemind"})


def modules_of(root: Path, packages: tuple[str, ...]) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {file.stem: file for file in root.glob("*.py")}
    for package in packages:
        for file in (root / package).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(module: str, file: Path) -> Iterator[tuple[str, str]]:
    """What a module imports anywhere, as (module, name in it); the name is empty for `import module`."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield from ((base, alias.name) for alias in node.names)


def graph(root: Path, packages: tuple[str, ...]) -> dict[str, set[str]]:
    """Module -> the first-party modules that it imports."""
    modules = modules_of(root, packages)
    edges: dict[str, set[str]] = {}
    for module, file in modules.items():
        # `from package import module` means the module, anything else the package's own text.
        names = (
            f"{base}.{name}" if f"{base}.{name}" in modules else base for base, name in imported(module, file)
        )
        edges[module] = {name for name in names if name in modules}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle's modules, or none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circle(graph(ROOT, PACKAGES)) == []


@pytest.mark.parametrize(
    "back",
    [
        "from rooms.a import A",
        "import typing\nif typing.TYPE_CHECKING:\n    from rooms.a import A",
        "def late():\n    from rooms import a",
        "def late():\n    from . import a",
    ],
)
def test_a_circle_is_found_however_it_is_hidden(tmp_path: Path, back: str) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "__init__.py").write_text("")
    (tmp_path / "rooms" / "a.py").write_text("from rooms import b\nA = 1\n")
    (tmp_path / "rooms" / "b.py").write_text(back + "\n")
    assert sorted(set(circle(graph(tmp_path, ("rooms",))))) == ["rooms.a", "rooms.b"]
    (tmp_path / "rooms" / "b.py").write_text("import os\n")
    assert circle(graph(tmp_path, ("rooms",))) == []


def test_no_import_stands_behind_a_guard_for_the_type_checker() -> None:
    guarded = {
        module
        for module, file in modules_of(ROOT, PACKAGES).items()
        if "_pb2" not in module and "TYPE_CHECKING" in file.read_text(encoding="utf-8")
    }
    assert guarded - LAZY == set()


def test_every_part_of_the_pool_has_a_storey() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (storeys,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    named = {part.strip() for storey in storeys for part in storey.split("|")}
    parts = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in [*(ROOT / "nodepool").iterdir(), *(ROOT / "nodepool" / "stores").iterdir()]
        if path.name not in ("__init__.py", "__pycache__") and (path.is_dir() or path.suffix == ".py")
    }
    assert parts - {"nodepool.stores"} <= named
    assert {name for name in PACKAGES if name not in ("nodepool", "scripts")} <= named


def test_the_rules_import_rules_and_arithmetic_only() -> None:
    outside: dict[str, set[str]] = {}
    for module, file in modules_of(ROOT, ("nodepool",)).items():
        if module.startswith("nodepool.domain"):
            for name, _ in imported(module, file):
                if not name.startswith("nodepool.domain") and name != "nodepool":
                    outside.setdefault(name.partition(".")[0], set()).add(module)
    assert set(outside) - PURE - {"numpy"} == set(), outside


def test_every_room_says_what_it_is_for() -> None:
    rooms = {
        name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        for name, file in modules_of(ROOT, PACKAGES).items()
        if file.name == "__init__.py"
    }
    assert [name for name, says in rooms.items() if not says] == []
