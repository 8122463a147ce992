"""The time, passed in where rules and use cases need it."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Returns Unix seconds.
Clock = Callable[[], float]

system_clock: Clock = time.time


def steady_clock() -> float:
    """Seconds that nobody sets, for how long something took. They go on while the machine sleeps, where the
    system has such a clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
