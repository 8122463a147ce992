"""A process that forks for its owner: whatever becomes of it, nobody gets another's process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.environment import ROOT
from tests.support.waiting import wait_until
from worker_agent.runners import proc
from worker_agent.runners.fork_server import ForkServer

_EXITS_WITH_ITS_REQUEST = (
    "import os, sys; sys.path.append(sys.argv[1]); from worker_agent.runners.launcher import serve; "
    "serve(int(sys.argv[2]), lambda request, *_: os._exit(int(request)))"
)


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer((sys.executable, "-c", _EXITS_WITH_ITS_REQUEST, str(ROOT)), answer_seconds=1.0)
    yield server
    server.close()


def _fork(server: ForkServer, request: int) -> int:
    reader, writer = os.pipe()
    try:
        return server.fork(str(request).encode(), [reader, writer])
    finally:
        os.close(reader)
        os.close(writer)


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_each_request_gets_its_own_process(server: ForkServer) -> None:
    pids = [_fork(server, code) for code in (3, 4)]
    assert [_exit_code(pid) for pid in pids] == [3, 4]


def test_an_answer_that_comes_late_is_nobody_elses(server: ForkServer) -> None:
    assert _exit_code(_fork(server, 3)) == 3
    stopped = next(pid for pid in proc.descendants(os.getpid()) if _is_server(pid))
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(OSError, match="timed out"):
        _fork(server, 4)
    assert _exit_code(_fork(server, 5)) == 5
    wait_until(lambda: proc.start_ticks(stopped) is None, "the server that was late has ended")


def _is_server(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
        return _EXITS_WITH_ITS_REQUEST.encode() in file.read()
