"""Packages and runs that make of a node's disk what they can: on a real agent, with a scripted gateway."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits
from tests.support.agent_stage import HELLO, StageMaker
from tests.support.bombs import folder_bomb, method_of
from tests.support.environment import ROOT
from tests.support.tasks import package
from tests.support.waiting import wait_until
from worker_agent.unpacking import Unpacker, Unpacking, UnpackLimits

LEAVES_A_BAD_TREE = {
    "main.py": """
import os
at = os.open(".", os.O_RDONLY)
for _ in range(500):
    os.mkdir("d", dir_fd=at)
    below = os.open("d", os.O_RDONLY, dir_fd=at)
    os.close(at)
    at = below
os.makedirs("wide")
for number in range(1500):
    os.mkdir(f"wide/{number}")
open(b"wide/1/bad\\xff\\n", "w").close()
os.mkdir("wide/2/closed")
os.chmod("wide/2/closed", 0)
os.chmod("wide", 0)
print("left")
"""
}


def many_blocks(files: int) -> bytes:
    """A byte in each file, and so a block of the disk in each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", "print('hello')")
        for number in range(files):
            archive.writestr(f"{number}", "x")
    return buffer.getvalue()


def limits(*, entries: int = 1000, disk: int = 64 << 20, seconds: int = 60) -> UnpackLimits:
    rules = PackageLimits(max_unpacked_bytes=128 << 20, max_entries=entries, max_ratio=1 << 40)
    return UnpackLimits(package=rules, max_workdir_bytes=disk, max_seconds=seconds)


@pytest.fixture(scope="module")
def unpacker() -> Iterator[Unpacker]:
    made = Unpacker()
    yield made
    made.close()


Begun = Callable[[bytes, UnpackLimits], tuple[Unpacking, int]]


@pytest.fixture
def begun(unpacker: Unpacker, tmp_path: Path) -> Iterator[Begun]:
    """begun(package, limits): what unpacks it into tmp_path / "work", and the open package."""
    with ExitStack() as stack:

        def begin(data: bytes, rules: UnpackLimits) -> tuple[Unpacking, int]:
            (tmp_path / "work").mkdir(mode=0o700)
            (tmp_path / "package.zip").write_bytes(data)
            file = stack.enter_context((tmp_path / "package.zip").open("rb"))
            return unpacker.unpacking(tmp_path / "work", rules), file.fileno()

        yield begin


def test_an_agent_survives_what_packages_and_runs_make_of_its_disk(make_stage: StageMaker) -> None:
    """The pool would refuse these packages. A node does not count on that, and it is the task that fails."""
    stage = make_stage(max_workdir_bytes=2 << 20)
    left = stage.data_dir / "trash" / "left"
    left.mkdir(parents=True)
    (left / "file").write_text("of an earlier life")
    stage.start()
    for number, (data, words) in enumerate(
        (
            (folder_bomb(400, 30), "more than 1000 files and folders"),
            (folder_bomb(1, 200), "folders in each other"),
            (method_of(package(HELLO), zipfile.ZIP_LZMA), "packed by LZMA"),
            (many_blocks(400), "bytes of disk when it is unpacked"),
        )
    ):
        attempt = stage.send(f"bomb{number}:1", data)
        assert stage.outcome(attempt) == "FAILED"
        assert attempt.end is not None
        assert words in attempt.end.reason
    runs, trash = stage.data_dir / "runs", stage.data_dir / "trash"
    attempt = stage.send("bad:1", LEAVES_A_BAD_TREE)
    assert stage.outcome(attempt) in {"SUCCEEDED", "FAILED"}  # its depth may be seen while it runs
    stage.wait(lambda: not list(runs.iterdir()), "the slot is free")
    assert stage.outcome(stage.send("good:1", HELLO)) == "SUCCEEDED"
    stage.wait(lambda: not list(trash.iterdir()), "what was left is removed")
    assert stage.agent.is_running


def test_nothing_is_written_of_a_package_that_breaks_a_bound(begun: Begun, tmp_path: Path) -> None:
    work, descriptor = begun(folder_bomb(500, 30), limits())
    with pytest.raises(InvalidPackageError, match="more than 1000 files and folders"):
        work.run(descriptor)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_stop_ends_the_unpacking(begun: Begun) -> None:
    work, descriptor = begun(package({"main.py": "", "zeros": "0" * (32 << 20)}), limits())
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(work.run(descriptor)))
    thread.start()
    wait_until(lambda: work._pid or told, "it unpacks")
    work.stop()
    thread.join(20)
    assert told == [""]
    assert work.run(descriptor) == ""  # nor is it begun again


def test_the_time_of_the_task_is_the_time_for_its_unpacking(begun: Begun) -> None:
    work, descriptor = begun(package({"main.py": ""}), limits(seconds=0))
    with pytest.raises(InvalidPackageError, match="longer than 0 seconds"):
        work.run(descriptor)


def test_who_unpacks_is_forked_without_a_new_interpreter_and_ends(begun: Begun, unpacker: Unpacker) -> None:
    work, descriptor = begun(package({"main.py": "print()"}), limits())
    assert work.run(descriptor) == "main.py"
    server = unpacker._server._process
    assert server is not None
    with pytest.raises(FileExistsError):  # the node's fault as far as it can tell, and told as that
        unpacker.unpacking(work._folder, limits()).run(descriptor)
    assert unpacker._server._process is server
    assert psutil.Process(server.pid).children() == []


def test_who_unpacks_is_not_the_agent_and_has_limits(tmp_path: Path) -> None:
    request = {"user": 61_100 if os.geteuid() == 0 else 0, "parent": os.getpid()}
    program = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from worker_agent.unpack_process import _harden\n"
        "from nodepool.domain.tasks.package_rules import PackageLimits\n"
        "status, bounds = open('/proc/self/status'), open('/proc/self/limits')\n"
        f"_harden({request!r}, PackageLimits(max_unpacked_bytes=1 << 20))\n"
        "print(status.read(), bounds.read())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    told = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    assert told["NoNewPrivs"].strip() == "1"
    if os.geteuid() == 0:
        assert told["Uid"].split() == ["61100"] * 4
        assert told["CapEff"].strip() == "0" * 16
    bounds = [line.split() for line in done.stdout.splitlines() if line.startswith("Max ")]
    assert ["Max", "file", "size", str(1 << 20)] in [words[:4] for words in bounds]
    assert ["Max", "address", "space", str(1 << 29)] in [words[:4] for words in bounds]
    assert ["Max", "core", "file", "size", "0"] in [words[:5] for words in bounds]
