"""When this gateway saw attempts being claimed, by its own monotonic clock: what bounds the pay for a run.

A gateway that was started since, or another one, has not seen it; then the pool's time has to do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

# Of more than these the oldest are forgotten.
_MOST = 100_000


class Claims:
    """Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._claimed: OrderedDict[str, float] = OrderedDict()

    def note(self, attempt_id: str) -> None:
        """The first time counts."""
        with self._lock:
            self._claimed.setdefault(attempt_id, self._monotonic())
            while len(self._claimed) > _MOST:
                self._claimed.popitem(last=False)

    def seconds_since(self, attempt_id: str) -> float | None:
        """None where it was not seen here. Kept: an end may be told again."""
        with self._lock:
            claimed = self._claimed.get(attempt_id)
        return None if claimed is None else max(0.0, self._monotonic() - claimed)
