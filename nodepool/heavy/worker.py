"""Inside a worker process: what it may use, and what it ends with when that is not enough.

It is told everything with its job, and keeps nothing from one to the next. It must not open a database,
a broker or the network.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_HARD_SECONDS_MORE = 10
_OPEN_FILES = 256


class OutOfBoundsError(Exception):
    """The job wanted more time or memory than one may have."""


class WorkerEndedError(OutOfBoundsError):
    """The process ended while it did the job; most often for the job, but others can end it, too."""


def ready() -> None:
    """The first job: there are workers."""


def set_up(parent: int, memory_bytes: int, nice: int) -> None:
    """Runs first in every worker process."""
    # Names in the worker's listing of settings; nothing in here is told any secret by them.
    os.environ.clear()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before it could be followed
        os._exit(1)
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with suppress(OSError):
        os.nice(nice)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    signal.signal(signal.SIGXCPU, _out_of_time)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def bounded(cpu_seconds: int, job: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """One job, with so many seconds of processor time. Raises OutOfBoundsError."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    try:
        return job(*arguments)
    except MemoryError:
        gc.collect()
        raise OutOfBoundsError("it takes more memory than it may have") from None


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    # Asked again a second later where this does not end it, until the kernel does.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + _HARD_SECONDS_MORE
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
    raise OutOfBoundsError("it takes more time than it may have")
