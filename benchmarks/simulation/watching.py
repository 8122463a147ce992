"""Stopwatches on the methods of real parts: how often, how long, and when each ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Stopwatch:
    """What was seen of one method. `on_end` is called with its arguments and the time it ended."""

    calls: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the thread that called it
    ended_at: float = 0.0
    on_end: Callable[[tuple[Any, ...], float], None] | None = field(default=None, repr=False)


@contextmanager
def watched(target: object, name: str) -> Iterator[Stopwatch]:
    """Times are of `time.perf_counter`. The method is as it was afterwards."""
    watch = Stopwatch()
    method = getattr(target, name)

    def timed(*args: Any, **keywords: Any) -> Any:
        began, cpu_began = time.perf_counter(), time.thread_time()
        try:
            return method(*args, **keywords)
        finally:
            watch.ended_at = time.perf_counter()
            watch.calls += 1
            watch.seconds += watch.ended_at - began
            watch.cpu_seconds += time.thread_time() - cpu_began
            if watch.on_end is not None:
                watch.on_end(args, watch.ended_at)

    setattr(target, name, timed)
    try:
        yield watch
    finally:
        delattr(target, name)
