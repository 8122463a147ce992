"""Jobs for tests of the worker processes; all of them end by themselves."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_MOST_SECONDS = 30.0


def echo(value: int) -> int:
    return value


def spin() -> None:
    end = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < end:
        pass


def eat() -> int:
    return len(bytearray(2 << 30))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    named = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {**named, "nice": str(os.getpriority(os.PRIO_PROCESS, 0)), "settings": ",".join(os.environ)}


def wait_for(path: str) -> int:
    """Until the file is there."""
    end = time.monotonic() + _MOST_SECONDS
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return os.getpid()
