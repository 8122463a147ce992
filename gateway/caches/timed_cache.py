"""Values that cost much to make and are good for a moment, kept for everybody who asks meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nodepool.domain.errors import UnavailableError

T = TypeVar("T")

# Making it takes at most one part in so many of the time, however long it takes.
_SHARE = 4
# An old value is good enough for this long while another thread makes the new one.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _CachedValue(Generic[T]):
    value: T | None
    error: str
    until: float

    def get(self) -> T:
        if self.value is None:
            raise UnavailableError(self.error)
        return self.value


class TimedCache(Generic[T]):
    """Made anew when asked for after `seconds`; UnavailableError is kept as well. Thread-safe."""

    def __init__(
        self, make: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._seconds, self._clock = make, seconds, clock
        self._making = threading.Lock()
        self._made: _CachedValue[T] | None = None

    def get(self) -> T:
        """Raises UnavailableError when it could not be made."""
        made, now = self._made, self._clock()
        if made is not None and now < made.until:
            return made.get()
        # Nobody waits for the thread that makes it while there is one that is not too old.
        if made is not None and now < made.until + _GRACE_SECONDS and self._making.locked():
            return made.get()
        with self._making:
            if self._made is None or self._clock() >= self._made.until:
                self._made = self._make_anew()
            return self._made.get()

    def _make_anew(self) -> _CachedValue[T]:
        started = self._clock()
        value, error = None, ""
        try:
            value = self._make()
        except UnavailableError as away:
            error = str(away)
        ended = self._clock()
        return _CachedValue(value, error, ended + max(self._seconds, _SHARE * (ended - started)))
