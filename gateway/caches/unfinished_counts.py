"""How many unfinished tasks a user has, without counting them in SQL at every upload.

Counting takes longer the more there are. What was counted a moment ago and what was accepted since
is enough below the limit; at the limit it is counted again before anybody is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

_BELIEVED_SECONDS = 2.0
_MAX_USERS = 10_000


@dataclass(slots=True)
class _Count:
    until: float
    tasks: int


class UnfinishedCounts:
    """Thread-safe. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[int, _Count] = {}

    def reaches(self, user_id: int, limit: int, count: Callable[[], int]) -> bool:
        """Whether the user has `limit` tasks or more; `count` asks SQL."""
        with self._lock:
            known = self._counts.get(user_id)
            if known is not None and known.until > self._clock() and known.tasks < limit:
                return False
        tasks = count()
        with self._lock:
            if len(self._counts) >= _MAX_USERS:
                self._counts.clear()
            self._counts[user_id] = _Count(self._clock() + _BELIEVED_SECONDS, tasks)
        return tasks >= limit

    def accepted(self, user_id: int, tasks: int = 1) -> None:
        with self._lock:
            if known := self._counts.get(user_id):
                known.tasks += tasks
