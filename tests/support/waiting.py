"""Waiting for a fact instead of for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LEAST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.02, 0.25
# Of the time that it has waited so far, and of what a look takes: who waits leaves the processor to those it
# waits for.
_OF_WAITED, _OF_LOOK = 0.1, 4.0


def wait_until(
    predicate: Callable[[], T], description: str, timeout: float = 60.0, period: float | None = None
) -> T:
    """The first true value of `predicate`, asked for at most `timeout` seconds.

    It is asked every `period` seconds; where none is given, often at first, and the less often the longer it
    takes and the more each look costs. Raises AssertionError with the description and the last value. What
    the predicate raises is raised.
    """
    began = time.monotonic()
    pause = threading.Event()
    while True:
        asked = time.monotonic()
        value = predicate()
        if value:
            return value
        now = time.monotonic()
        if now - began >= timeout:
            raise AssertionError(
                f"after {timeout:g} s it is still not so that {description}; last: {value!r}"
            )
        pause.wait(_pause(now - began, now - asked) if period is None else period)


def _pause(waited: float, look: float) -> float:
    wanted = max(LEAST_PAUSE_SECONDS, _OF_WAITED * waited, _OF_LOOK * look)
    return min(MOST_PAUSE_SECONDS, wanted)
