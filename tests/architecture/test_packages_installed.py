"""What people install is the SDK, its command and the agent: all that they need, nothing of the server."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import grimp
import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

from tests.support.environment import ROOT

OURS = ("hivemind", "nodepool", "worker_agent")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files of the wheel."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)


def test_no_name_of_the_wheel_is_somebody_elses(files: list[str]) -> None:
    info = f"{PROJECT['name'].replace('-', '_')}-{PROJECT['version']}.dist-info"
    assert {Path(name).parts[0] for name in files} == {*OURS, info}


def test_type_checkers_see_the_types_of_all_of_it(files: list[str]) -> None:
    assert {f"{package}/py.typed" for package in OURS} <= set(files)
    assert "nodepool/protocol/nodepool_pb2.pyi" in files


def test_all_that_the_sdk_and_the_agent_import_is_in_the_wheel(
    files: list[str], imports: grimp.ImportGraph
) -> None:
    reached = _reached(imports, _below(imports, "hivemind", "worker_agent"))
    needed = {_file(name) for name in reached if name.partition(".")[0] in OURS}
    assert needed - set(files) == set()
    assert not {name for name in files if name.startswith(("nodepool/stores", "nodepool/settings"))}


@pytest.mark.parametrize(
    ("packages", "extra"), [(("hivemind",), ""), (("hivemind",), "client"), (("worker_agent",), "agent")]
)
def test_an_extra_names_all_that_its_code_imports(
    imports: grimp.ImportGraph, packages: tuple[str, ...], extra: str
) -> None:
    modules = _below(imports, *packages)
    if not extra:
        modules -= _below(imports, "hivemind")
    outside = {name for name in _reached(imports, modules) if name.partition(".")[0] not in OURS}
    homes = metadata.packages_distributions()
    for name in outside - sys.stdlib_module_names:
        assert _declared(extra) & {home.lower() for home in homes[name]}, f"{name} is not named by [{extra}]"


def _declared(extra: str) -> set[str]:
    texts: list[str] = list(PROJECT["dependencies"])
    if extra:
        texts += PROJECT["optional-dependencies"][extra]
    names = {requirement.name for requirement in map(Requirement, texts)}
    return names if extra != "agent" else names | _declared("client")


def _below(imports: grimp.ImportGraph, *packages: str) -> set[str]:
    return {name for package in packages for name in (package, *imports.find_descendants(package))}


def _reached(imports: grimp.ImportGraph, modules: Iterable[str]) -> set[str]:
    """These and all that they import, and the packages that these are in."""
    reached: set[str] = set()
    left = list(modules)
    while left:
        if (name := left.pop()) in reached:
            continue
        reached.add(name)
        if name.partition(".")[0] in OURS:
            left += imports.find_modules_directly_imported_by(name)
            if parent := name.rpartition(".")[0]:
                left.append(parent)
    return reached


def _file(module: str) -> str:
    path = Path(*module.split("."))
    return str(path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py"))
