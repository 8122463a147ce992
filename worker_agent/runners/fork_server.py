"""The agent's side of a process that forks for it: nothing has to wait for an interpreter.

The other side is `launcher.serve`. What is forked is the agent's own child, and does what a request says,
which is one message with descriptors. Knows nothing of what is in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from worker_agent.runners.launcher import MAX_PLAN_BYTES

_NEEDED_VARIABLES = ("LD_LIBRARY_PATH",)  # for an interpreter that was built to need it
_ANSWER_SECONDS = 30.0
_ANSWER_BYTES = 256
_END_SECONDS = 10


class ForkServer:
    """Thread-safe. Begins with the first `fork`, and again when its process has ended."""

    def __init__(self, command: Sequence[str], *, answer_seconds: float = _ANSWER_SECONDS) -> None:
        """`command` gets the number of the descriptor on which it is spoken to as its last argument."""
        self._command = tuple(command)
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        # A child may die with the thread that its server came from: one that lives as long as this.
        self._thread = ThreadPoolExecutor(1, "fork-server")
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def fork(self, request: bytes, descriptors: list[int]) -> int:
        """The new process's id, for the caller to wait for. The descriptors stay open here. OSError."""
        if len(request) > MAX_PLAN_BYTES:
            raise OSError("its command and environment are too long")
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._thread.submit(self._begin).result()
            assert self._channel is not None  # noqa: S101
            try:
                socket.send_fds(self._channel, [request], descriptors)
                answer = self._channel.recv(_ANSWER_BYTES).decode()
            except OSError:
                self._end_late()
                raise
        if not answer.isdecimal():
            raise OSError(answer or f"{self._command[0]} has ended")
        return int(answer)

    def close(self) -> None:
        with self._lock:
            self._end()
        self._thread.shutdown()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(self._answer_seconds)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _NEEDED_VARIABLES if name in os.environ},
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._channel = ours

    def _end_late(self) -> None:
        """It would answer the next request with what it did for this one, which nobody waits for now."""
        assert self._process is not None and self._channel is not None  # noqa: PT018, S101
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._channel.settimeout(0)
            if (answer := self._channel.recv(_ANSWER_BYTES).decode()).isdecimal():
                os.kill(int(answer), signal.SIGKILL)
                os.waitpid(int(answer), 0)
        self._end()

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
