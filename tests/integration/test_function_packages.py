"""A function's package as a node runs it: unpacked, by an interpreter that has nothing installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from hivemind import (
    BadResultError,
    InvalidInputError,
    OtherPythonError,
    RemoteError,
    ResultFile,
    TaskFailedError,
)
from hivemind.functions import on_node
from hivemind.functions.errors import WorkerSetupError
from hivemind.functions.outcome import Taking, value_of
from hivemind.functions.packing import FunctionWork, Pickled, packed
from hivemind.functions.pickling import dumps, own_modules_by_value
from hivemind.zip_pack import open_package


class CuriousError(Exception):
    """Its arguments are not those that it was made with."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(text)
        self.code = code


_STEP = 20


@dataclass
class Point:
    x: int

    def moved(self) -> Point:
        return Point(self.x + _STEP)


@dataclass
class Ran:
    code: int
    err: str
    folder: Path


def run(work: FunctionWork, tmp_path: Path, index: int | None = 0, **about: Any) -> Ran:
    """In a fresh folder, and without what is installed here."""
    folder = tmp_path / f"work-{index}"
    with packed(work) as path:
        open_package(path).close()
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    if about:
        told = folder / "_hivemind" / "about.json"
        told.write_text(json.dumps(json.loads(told.read_text()) | about))
    environment = {"PATH": os.environ["PATH"]} | ({} if index is None else {"HIVEMIND_INDEX": str(index)})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "main.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ran(done.returncode, done.stderr, folder)


def value(ran: Ran, tmp_path: Path, most_bytes: int = 1 << 20) -> Any:
    return value_of(ran.folder, "task_1", Taking(most_bytes=most_bytes, files=tmp_path / "kept"))


def answer(item: Any) -> Any:
    return item


def fails(number: int) -> int:
    return 10 // number


def test_each_run_takes_its_item_and_leaves_what_it_answered(tmp_path: Path) -> None:
    work = FunctionWork.of_map(
        lambda item: (item, os.environ["HIVEMIND_INDEX"], [path.name for path in Path().iterdir()]),
        ["a", "b" * 100, "c"],
    )
    ran = run(work, tmp_path, 2)
    assert (ran.code, ran.err) == (0, "")
    assert value(ran, tmp_path) == ("c", "2", ["_hivemind_outcome"])
    assert [path.name for path in ran.folder.iterdir()] == ["_hivemind_outcome"]


def test_one_call_has_arguments_and_names(tmp_path: Path) -> None:
    work = FunctionWork.of_call(lambda *args, **kwargs: (args, kwargs), (1, 2), {"x": 3})
    assert value(run(work, tmp_path, None), tmp_path) == ((1, 2), {"x": 3})


def test_modules_of_ones_own_come_along_and_objects_are_of_their_class(tmp_path: Path) -> None:
    ran = run(FunctionWork.of_map(Point.moved, [Point(1)]), tmp_path)
    assert (ran.code, ran.err) == (0, "")
    came = value(ran, tmp_path)
    assert isinstance(came, Point)
    assert came == Point(21)
    assert Point.moved.__globals__ is globals(), "what came back has changed no class of ours"


def test_zeros_are_no_bomb(tmp_path: Path) -> None:
    assert value(run(FunctionWork.of_map(len, [bytes(4 << 20)]), tmp_path), tmp_path) == 4 << 20


def test_an_exception_comes_back_as_itself_with_its_traceback(tmp_path: Path) -> None:
    ran = run(FunctionWork.of_map(fails, [0]), tmp_path)
    assert ran.code == on_node.FAILED
    assert "ZeroDivisionError" in ran.err
    with pytest.raises(ZeroDivisionError) as raised:
        value(ran, tmp_path)
    shown = "".join(traceback.format_exception(raised.value))
    assert "return 10 // number" in shown, "the caller's own line, which is on no disk there"
    assert 'main.py"' not in str(raised.value.__cause__), "nothing of ours is in it"


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (FunctionWork.of_map(lambda _: sys.exit(3), [1]), "SystemExit: 3"),
        (
            FunctionWork.of_map(lambda _: threading.Lock(), [1]),
            "the function's result, of _thread.lock, cannot be pickled",
        ),
    ],
)
def test_what_cannot_come_back_is_told_in_words(tmp_path: Path, work: FunctionWork, told: str) -> None:
    ran = run(work, tmp_path)
    assert ran.code == on_node.FAILED
    with pytest.raises(RemoteError) as raised:
        value(ran, tmp_path)
    assert told in str(raised.value)


def test_an_exception_that_cannot_be_pickled_is_told_with_its_traceback(tmp_path: Path) -> None:
    def raises(_: int) -> None:
        raise CuriousError(7, text="it is curious")

    with pytest.raises(RemoteError, match="CuriousError: it is curious") as raised:
        value(run(FunctionWork.of_map(raises, [1]), tmp_path), tmp_path)
    assert "raise CuriousError" in raised.value.traceback
    assert "raise CuriousError" in str(raised.value.__cause__)


def test_another_python_runs_nothing_and_names_both(tmp_path: Path) -> None:
    ran = run(FunctionWork.of_map(answer, [1]), tmp_path, magic="00", python="cpython 3.9")
    assert ran.code == on_node.OTHER_PYTHON
    assert f"packed by cpython 3.9, and this node has {on_node.python()}" in ran.err
    with pytest.raises(OtherPythonError) as raised:
        value(ran, tmp_path)
    assert "cpython 3.9" in str(raised.value)
    assert on_node.python() in str(raised.value)


def test_a_result_of_another_python_is_not_read(tmp_path: Path) -> None:
    ran = run(FunctionWork.of_map(answer, [1]), tmp_path)
    told = ran.folder / "_hivemind_outcome" / "outcome.json"
    told.write_text(json.dumps({"kind": "value", "python": "cpython 3.9"}))
    (told.parent / "value.pickle").write_bytes(b"this would be an error")
    with pytest.raises(OtherPythonError, match=r"a result of cpython 3\.9"):
        value(ran, tmp_path)


def test_large_results_and_paths_are_files(tmp_path: Path) -> None:
    def writes(name: str) -> Path:
        Path("out").mkdir()
        Path("out", name).write_text("42")
        return Path("out")

    came = value(run(FunctionWork.of_map(writes, ["a.txt"]), tmp_path), tmp_path)
    assert came == tmp_path / "kept" / "task_1" / "out"
    assert (came / "a.txt").read_text() == "42"
    ran = run(FunctionWork.of_map(answer, [0, "x" * 2000]), tmp_path, 1)
    large = value(ran, tmp_path, most_bytes=1000)
    assert isinstance(large, ResultFile)
    assert (large.size_bytes > 2000, large.load()) == (True, "x" * 2000)
    elsewhere = PurePosixPath("/etc/passwd")
    assert value(run(FunctionWork.of_map(answer, [0, 0, elsewhere]), tmp_path, 2), tmp_path) == elsewhere


def test_a_module_that_a_node_does_not_have_is_named(tmp_path: Path) -> None:
    ran = run(FunctionWork.of_map(pytest.approx, [1]), tmp_path)
    with pytest.raises(TaskFailedError, match="could not load the function") as raised:
        value(ran, tmp_path)
    assert "pytest" in str(raised.value)


def test_an_executors_calls_are_prepared_first(tmp_path: Path) -> None:
    def prepare(name: str) -> None:
        os.environ[name] = "prepared"

    with own_modules_by_value():
        calls = [((index,), {}) for index in range(3)]
        one = Pickled(dumps((lambda _: os.environ["A"], [((1,), {})], False), "a call"))
        chunk = Pickled(dumps((fails, calls[1:], True), "a chunk"))
    work = FunctionWork("executor", (prepare, ("A",)), [one, chunk], "work")
    assert value(run(work, tmp_path, 0), tmp_path) == "prepared"
    assert value(run(work, tmp_path, 1), tmp_path) == [10, 5]
    broken = FunctionWork("executor", (fails, (0,)), [one], "work")
    with pytest.raises(WorkerSetupError, match="the initializer failed") as raised:
        value(run(broken, tmp_path, None), tmp_path)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "told",
    [
        b"no JSON", b"[]", b"[" * 100_000, b"{}", b'{"kind": "magic", "python": "PYTHON"}',
        b'{"kind": "file", "path": "../../secret", "python": "PYTHON"}',
        b'{"kind": "file", "path": "/etc/passwd", "python": "PYTHON"}',
        b'{"kind": "value", "python": "PYTHON"}', b'{"kind": 7}',
    ],
)  # fmt: skip
def test_what_a_node_makes_up_is_a_client_error(tmp_path: Path, told: bytes) -> None:
    folder = tmp_path / "a" / "b"
    (folder / "_hivemind_outcome").mkdir(parents=True)
    (tmp_path / "secret").write_text("not for everybody")
    (folder / "_hivemind_outcome" / "outcome.json").write_bytes(
        told.replace(b"PYTHON", on_node.python().encode())
    )
    with pytest.raises((BadResultError, OtherPythonError)):
        value_of(folder, "task_1", Taking(files=tmp_path / "kept"))
    assert (tmp_path / "secret").exists()


def test_what_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match="left no result of a function"):
        value_of(tmp_path, "task_1", Taking())
    with pytest.raises(InvalidInputError, match="cannot be pickled"):
        run(FunctionWork.of_map(answer, [threading.Lock()]), tmp_path)
