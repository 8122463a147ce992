"""The `hivemind` command for tests: in this process or one of its own, against a scripted server.

A test module that gives the fixtures names of its own has them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hivemind.cli import main
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.scripted_server import Scripted, in_chunks, token_of
from tests.support.tasks import package

COMMAND = [sys.executable, "-m", "hivemind"]
# A session of its own has no terminal until it takes one.
WITH_A_TERMINAL = (
    "import fcntl, runpy, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "runpy.run_module('hivemind', run_name='__main__')\n"
)
TOKEN = token_of("alice", exp=4_000_000_000)
RESULT = package({"answer.txt": "42"})


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        assert self.out == ""
        assert self.err.count("\n") == 1
        error: dict[str, Any] = json.loads(self.err)["error"]
        assert error["exit_code"] == self.code
        assert set(error) == {"code", "message", "hint", "exit_code"}
        return error


def run(
    environment: dict[str, str], *arguments: str, path: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment | {"PYTHONPATH": os.pathsep.join([*path, *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def run_here(said: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """The command in this process; `said` is the test's own capfd."""
    said.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = said.readouterr()
    return Ended(code, captured.out, captured.err)


class Shell:
    """Runs the command in this process, with a home of its own."""

    def __init__(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        self._capfd = capfd
        self.profile = home / ".config" / "hivemind" / "profile.json"

    def __call__(self, *arguments: str | Path) -> Ended:
        return run_here(self._capfd, *arguments)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    scripted.start()
    yield scripted
    scripted.stop()


@pytest.fixture
def environment(server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A home without a login, and the address of the server."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("HIVEMIND_", "XDG_"))]:
        if not name.startswith("HIVEMIND_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HIVEMIND_GATEWAY", server.address)
    # A pool that a test says is away stays away.
    monkeypatch.setenv("HIVEMIND_RETRY_SECONDS", "0.5")
    monkeypatch.chdir(home)
    return dict(os.environ)


@pytest.fixture
def stranger(capfd: pytest.CaptureFixture[str], environment: dict[str, str]) -> Shell:
    return Shell(capfd, Path(environment["HOME"]))


@pytest.fixture
def alice(stranger: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("HIVEMIND_TOKEN", TOKEN)
    return stranger


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "main.py").write_text("print('hello')")
    return folder


def runs(server: Scripted, *events: pb.WatchTaskResponse) -> None:
    server.answers("UploadTask", pb.UploadTaskResponse(success=True, message="accepted"))
    server.on("WatchTask", lambda *_: iter(events))
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
