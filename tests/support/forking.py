"""Starts the pool's parts by fork, from a process that has imported already what they import.

A part needs two seconds of processor time to load its libraries, and a run of the tests starts hundreds. A
forked one begins where `python -m` would be after its imports, in a session, a folder and an environment of
its own. What `hivemind up`, other users and wrapped commands start is started as ever.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.environment import ROOT
from tests.support.fork_server import MOST_BYTES

# `0`: every part is started by itself, for what must see processes start, as what measures coverage does.
SWITCH = "HIVEMIND_TEST_FORK"
# Set in every process that the tests start; children inherit it, so strays can be told apart from
# everybody else's processes.
MARK = "HIVEMIND_TEST_RUN"
MODULES = frozenset({"gateway", "celery", "worker_agent", "dispatcher.flower"})


class ForkedProcess:
    """What tests use of subprocess.Popen, for a process whose parent is the fork server."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        # Readable once the process has ended; it never means another process with the same id.
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.status(self.pid)
            if self.returncode is not None:
                os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            waiting = select.poll()
            waiting.register(self._handle, select.POLLIN)
            waiting.poll(None if timeout is None else timeout * 1000)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """One process that forks others; thread-safe. It ends when it is closed, or its owner ends."""

    def __init__(self, control: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        """`process`: this one's own, and not one that somebody else has started for several."""
        self._control, self._process = control, process
        self._lock = threading.Lock()

    def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> ForkedProcess:
        wanted = {"argv": list(argv), "env": dict(env), "cwd": str(cwd), "log": str(log)}
        return ForkedProcess(self, int(str(self._ask(wanted))))

    def status(self, pid: int) -> int | None:
        answer = self._ask({"pid": pid})
        return None if answer is None else int(str(answer))

    def close(self) -> None:
        self._control.close()
        if self._process is not None:
            self._process.wait(30)

    def _ask(self, question: Mapping[str, object]) -> object:
        with self._lock:
            self._control.send(json.dumps(question).encode())
            data = self._control.recv(MOST_BYTES)
        if not data:
            raise RuntimeError("the fork server of the tests has ended; its words are among pytest's")
        answer: object = json.loads(data)
        return answer


class SharedServer:
    """For processes that are forked from this one: each gets a server that is forked from a ready one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            # A name that the kernel makes, in no folder.
            listening.bind("")
            listening.listen()
            self._address = listening.getsockname()
            self._control, self._process = _begin(environment, listening)

    def connect(self) -> ForkServer:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line.connect(self._address)
        return ForkServer(line)

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)

    def leave(self) -> None:
        """In a process that was forked: it is the other one's, who ends it."""
        self._control.close()
        self._process.returncode = 0


def _begin(
    environment: Mapping[str, str], *more: socket.socket
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptors = [theirs.fileno(), *(each.fileno() for each in more)]
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.fork_server", *map(str, descriptors)],
            # Numpy's threads would not come along.
            env={**environment, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
    return ours, process


_lock = threading.Lock()
_servers: list[ForkServer] = []
_shared: list[SharedServer] = []


def forkable(argv: Sequence[str]) -> list[str] | None:
    """The module and its arguments, where this is one of the pool's parts and nothing stands before it."""
    interpreter, *words = argv
    if words[:1] == ["-P"]:
        del words[0]
    if os.environ.get(SWITCH) == "0" or interpreter != sys.executable or words[:1] != ["-m"]:
        return None
    return words[1:] if words[1] in MODULES else None


def server() -> ForkServer:
    """This process's own, started when it is needed first."""
    with _lock:
        if not _servers:
            _servers.append(_shared[0].connect() if _shared else ForkServer(*_begin(_environment())))
        return _servers[0]


def share() -> None:
    """Processes that are forked from now on need none of their own."""
    if os.environ.get(SWITCH) != "0":
        _shared.append(SharedServer(_environment()))


def leave_shared() -> None:
    """In a process that was forked."""
    for shared in _shared:
        shared.leave()


def end_shared() -> None:
    """When the processes that were forked have ended."""
    while _shared:
        _shared.pop().close()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", MARK) if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


def close() -> None:
    """At the end of the tests."""
    with _lock:
        while _servers:
            _servers.pop().close()
