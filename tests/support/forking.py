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

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.support.fork_server", str(theirs.fileno())],
                # Numpy's threads would not come along.
                env={**environment, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._control = ours
        self._lock = threading.Lock()

    def start(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> ForkedProcess:
        wanted = {"argv": list(argv), "env": dict(env), "cwd": str(cwd), "log": str(log)}
        return ForkedProcess(self, int(str(self._ask(wanted))))

    def status(self, pid: int) -> int | None:
        answer = self._ask({"pid": pid})
        return None if answer is None else int(str(answer))

    def close(self) -> None:
        self._control.close()
        self._process.wait(30)

    def _ask(self, question: Mapping[str, object]) -> object:
        with self._lock:
            self._control.send(json.dumps(question).encode())
            data = self._control.recv(MOST_BYTES)
        if not data:
            raise RuntimeError("the fork server of the tests has ended; its words are among pytest's")
        answer: object = json.loads(data)
        return answer


_lock = threading.Lock()
_servers: list[ForkServer] = []


def forkable(argv: Sequence[str]) -> list[str] | None:
    """The module and its arguments, where this is one of the pool's parts and nothing stands before it."""
    interpreter, *words = argv
    if words[:1] == ["-P"]:
        del words[0]
    if os.environ.get(SWITCH) == "0" or interpreter != sys.executable or words[:1] != ["-m"]:
        return None
    return words[1:] if words[1] in MODULES else None


def server(environment: Mapping[str, str]) -> ForkServer:
    """This process's own, started when it is needed first."""
    with _lock:
        if not _servers:
            _servers.append(ForkServer(environment))
        return _servers[0]


def close() -> None:
    """At the end of the tests."""
    with _lock:
        while _servers:
            _servers.pop().close()
