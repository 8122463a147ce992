"""Starts runs through the launcher, which is ready before they come."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_agent.runners import launcher, proc

_SCRIPT = str(Path(launcher.__file__).resolve())
_NEEDED_VARIABLES = ("LD_LIBRARY_PATH",)  # for an interpreter that was built to need it
_ANSWER_SECONDS = 30.0
_ANSWER_BYTES = 256
_END_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that is our child. Whoever has this waits for it, and closes both."""

    pid: int
    output: io.FileIO
    status_reader: int  # the launcher, or bubblewrap, tells of itself there; does not block


class Spawner:
    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._lock = threading.Lock()
        # A run dies with the thread that its launcher came from: one that lives as long as the runner.
        self._thread = ThreadPoolExecutor(1, "process-spawner")
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        proc.adopt_orphans()

    def launch(self, plan: dict[str, Any]) -> Launched:
        """Raises OSError."""
        text = json.dumps(plan).encode()
        if len(text) > launcher.MAX_PLAN_BYTES:
            raise OSError("its command and environment are too long")
        output_reader, output_writer = os.pipe2(os.O_CLOEXEC)
        status_reader, status_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(status_reader, False)
        try:
            with self._lock:
                pid = self._ask(text, [output_writer, status_writer])
        except BaseException:
            os.close(output_reader)
            os.close(status_reader)
            raise
        finally:
            os.close(output_writer)
            os.close(status_writer)
        return Launched(pid, io.FileIO(output_reader), status_reader)

    def succeeds(self, plan: dict[str, Any], within_seconds: float) -> bool:
        """Whether what the plan runs ends with 0 in this time. Ends it."""
        try:
            launched = self.launch(plan)
        except OSError:
            return False
        with contextlib.closing(launched.output):
            over = os.pidfd_open(launched.pid)
            try:
                if not select.select([over], [], [], within_seconds)[0]:
                    for pid in (*proc.descendants(launched.pid), launched.pid):
                        proc.send(pid, signal.SIGKILL)
                return os.waitpid(launched.pid, 0)[1] == 0
            finally:
                os.close(over)
                os.close(launched.status_reader)

    def close(self) -> None:
        with self._lock:
            self._end()
        self._thread.shutdown()

    def _ask(self, text: bytes, descriptors: list[int]) -> int:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._thread.submit(self._begin).result()
        assert self._channel is not None  # noqa: S101
        socket.send_fds(self._channel, [text], descriptors)
        answer = self._channel.recv(_ANSWER_BYTES).decode()
        if not answer.isdecimal():
            raise OSError(answer or "the launcher of tasks has ended")
        return int(answer)

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [self._python, "-I", "-S", _SCRIPT, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _NEEDED_VARIABLES if name in os.environ},
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        self._channel = ours

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
