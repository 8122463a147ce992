"""A package becomes a working directory in a child process of its own, which has a user and limits of its own
and dies with the attempt.

It is forked by a process that is ready (`unpack_process.py`): an interpreter with what a ZIP needs takes
longer to start than a small package to unpack. Whatever a package makes of itself there is the task's fault;
a full disk is the node's.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.package_rules import PackageLimits
from worker_agent.runners.fork_server import ForkServer
from worker_agent.runners.tools import agents_python

_MAX_ANSWER_BYTES = 1 << 16
# Above the users of tasks, in the range that systemd leaves unused.
_UNPACK_UID = 61_100
_CHILD = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from worker_agent.unpack_process import main; main(sys.argv[2])"
)
_HOME = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """The run's own, as far as they are about its files and its time."""

    package: PackageLimits
    max_workdir_bytes: int
    max_seconds: int
    runs: bool = True  # there must be something to run


class Unpacker:
    """Makes Unpackings; `close` when there are no more."""

    def __init__(self) -> None:
        self._server = ForkServer((agents_python(), "-I", "-S", "-c", _CHILD, str(_HOME)))

    def unpacking(self, folder: Path, limits: UnpackLimits) -> Unpacking:
        return Unpacking(self._server, folder, limits)

    def close(self) -> None:
        self._server.close()


class Unpacking:
    """One package, in a process of its own. `run` once; `stop` from any thread."""

    def __init__(self, server: ForkServer, folder: Path, limits: UnpackLimits) -> None:
        self._server = server
        self._folder = folder
        self._limits = limits
        # Guards what follows, and that no signal is sent once the pid may be another's.
        self._lock = threading.Lock()
        self._pid = 0
        self._stopped = False
        self._late = False

    @property
    def was_stopped(self) -> bool:
        return self._stopped

    def run(self, package: int) -> str:
        """The name of what is to be run; empty when it was stopped.

        Raises InvalidPackageError, and OSError for what is the node's fault.
        """
        request = {
            "folder": str(self._folder),
            "limits": asdict(self._limits.package),
            "max_disk_bytes": self._limits.max_workdir_bytes,
            "runs": self._limits.runs,
            "user": self._give_folder(),
            "parent": os.getpid(),
        }
        reader, writer = os.pipe2(os.O_CLOEXEC)
        with open(reader, "rb") as answer:  # noqa: PTH123  a descriptor
            try:
                with self._lock:
                    if self._stopped:
                        return ""
                    self._pid = self._server.fork(json.dumps(request).encode(), [writer, package])
            finally:
                os.close(writer)
            code, told = self._wait(answer)
        if self._stopped:
            return ""
        if self._late:
            raise InvalidPackageError(f"unpacking took longer than {self._limits.max_seconds} seconds")
        return _judged(code, told)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._kill()

    def _give_folder(self) -> int:
        """The user that unpacks: none of the agent's, where there is another one. 0 when there is not."""
        if os.geteuid() != 0:
            return 0
        try:
            os.chown(self._folder, _UNPACK_UID, _UNPACK_UID)
        except OSError:  # a user namespace without it
            return 0
        return _UNPACK_UID

    def _wait(self, answer: BinaryIO) -> tuple[int, bytes]:
        """Exit code and answer. Blocks until the process has ended, by itself or by the time's end."""
        timer = threading.Timer(self._limits.max_seconds, self._kill_late)
        timer.daemon = True
        timer.start()
        try:
            told = answer.read(_MAX_ANSWER_BYTES)
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        finally:
            timer.cancel()
        with self._lock:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
        return os.waitstatus_to_exitcode(status), told

    def _kill_late(self) -> None:
        with self._lock:
            self._late = self._pid != 0
            self._kill()

    def _kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)


def _judged(code: int, told: bytes) -> str:
    """What the child said, or what its end says."""
    if code == 0:
        answer = json.loads(told)
        if "refused" in answer:
            raise InvalidPackageError(str(answer["refused"]))
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        if "failed" in answer:
            raise OSError(None, f"the process that unpacks failed: {answer['failed']}")
        return str(answer["entry"])
    if code == -signal.SIGXCPU:
        raise InvalidPackageError("unpacking the package took too much CPU time")
    if code == -signal.SIGXFSZ:
        raise InvalidPackageError("a file of the package is larger than it may be")
    raise OSError(None, f"the process that unpacks ended with {code}")
