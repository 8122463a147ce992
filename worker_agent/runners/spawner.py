"""Starts runs through the launcher, which is ready before they come."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_agent.runners import launcher, proc
from worker_agent.runners.fork_server import ForkServer

_SCRIPT = str(Path(launcher.__file__).resolve())


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that is our child. Whoever has this waits for it, and closes both."""

    pid: int
    output: io.FileIO
    status_reader: int  # the launcher, or bubblewrap, tells of itself there; does not block


class Spawner:
    def __init__(self, python: str = sys.executable) -> None:
        self._server = ForkServer((python, "-I", "-S", _SCRIPT))
        proc.adopt_orphans()

    def launch(self, plan: dict[str, Any]) -> Launched:
        """Raises OSError."""
        text = launcher.packed(plan)
        output_reader, output_writer = os.pipe2(os.O_CLOEXEC)
        status_reader, status_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(status_reader, False)
        try:
            pid = self._server.fork(text, [output_writer, status_writer])
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
        self._server.close()
