"""Waiting for a fact instead of for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], description: str, timeout: float = 60.0, period: float = 0.02
) -> T:
    """The first true value of `predicate`, asked every `period` seconds for at most `timeout` seconds.

    Raises AssertionError with the description and the last value. What the predicate raises is raised.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"after {timeout:g} s it is still not so that {description}; last: {value!r}"
            )
        pause.wait(period)
