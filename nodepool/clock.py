"""The time, passed in where rules and use cases need it: one clock object for each part of the pool.

`PoolClock` is what gateway and dispatcher live by. Its time goes on as the process's monotonic clock does, so
that nobody who sets a wall clock, and no suspended machine, makes anything older. Where it stands all parts
agree on through a shared record: the broker's clock, and by how much the pool's time differs from it.
Whoever finds that the broker's clock has jumped (it is not where the own monotonic clock expects it)
corrects the record, and everybody goes on as if nothing had happened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from nodepool.domain.errors import NodePoolError

log = logging.getLogger(__name__)

#: Returns Unix seconds.
Clock = Callable[[], float]

system_clock: Clock = time.time


def steady_clock() -> float:
    """Seconds that nobody sets, for how long something took. They go on while the machine sleeps, where the
    system has such a clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


# More than clocks drift apart between two looks, or a slow answer explains.
JUMP_SECONDS = 2.0
SYNC_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SharedTime:
    """`there`: the shared clock's Unix seconds; `skew`: what the pool's time differs by; None: not told."""

    there: float
    skew: float | None


class TimeRecord(Protocol):
    def read(self) -> SharedTime: ...

    def correct(self, skew: float) -> None:
        """Unless somebody else has corrected it since it was read."""
        ...


class PoolClock:
    """Thread-safe. Before the record was ever read it is this machine's time at the start, carried on."""

    def __init__(
        self,
        record: TimeRecord,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._known: float | None = None  # the record's skew at the last look
        self._is_synced = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self) -> float:
        return self._monotonic() + self._offset

    def start(self) -> PoolClock:
        """Looks now, and then every so often."""
        self.sync()
        self._thread = threading.Thread(target=self._run, name="pool-clock", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        self._ending.set()

    def sync(self) -> None:
        """One look. Where the record cannot be read the time goes on as it did."""
        try:
            began = self._monotonic()
            shared = self._record.read()
            took = self._monotonic() - began
            if took > JUMP_SECONDS / 2:
                return  # too slow to say anything
            self._look(shared, began + took / 2)
        except NodePoolError:
            return

    def settle(self) -> None:
        """Nothing runs that could become older: dates are the broker's again, after it has jumped."""
        if self._known is not None and abs(self._known) > JUMP_SECONDS:
            with suppress(NodePoolError):
                self._record.correct(0.0)

    def _look(self, shared: SharedTime, at: float) -> None:
        offset = shared.there + (shared.skew or 0.0) - at
        first, self._is_synced = not self._is_synced, True
        same = shared.skew == self._known
        if first or (shared.skew is not None and not same) or (same and self._is_near(offset)):
            # A newcomer, somebody's correction, or clocks that drift apart: all follow the record.
            self._offset, self._known = offset, shared.skew
            return
        log.warning("the broker's clock is off by %.0f s: the pool's time goes on", offset - self._offset)
        # Read with the next look, as everybody reads it.
        self._record.correct(self._offset + at - shared.there)

    def _is_near(self, offset: float) -> bool:
        return abs(offset - self._offset) <= JUMP_SECONDS

    def _run(self) -> None:
        while not self._ending.wait(SYNC_SECONDS):
            self.sync()
