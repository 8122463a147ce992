"""Tasks whose next try is due: they wait for a node again, and dispatchers are told.

Derived from SQL in each pass; a hint that is lost is told again as of every task that waits.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.messaging.names import PLACE, partition_queue
from nodepool.messaging.publisher import Hint
from nodepool.stores.sql import retries as retry_store

log = logging.getLogger(__name__)
# The rest comes with the next pass, which is soon then.
_AT_ONCE = 500


class RetryWaits:
    """For the sweep's thread."""

    def __init__(self, dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
        self._dispatcher, self._placement_loop = dispatcher, placement_loop
        self._next_at: float | None = None

    @property
    def anybody(self) -> bool:
        """Whether somebody waited for a try when last looked."""
        return self._next_at is not None

    def seconds_left(self) -> float:
        """Until the next one is due, by the pool's time."""
        return float("inf") if self._next_at is None else self._next_at - self._dispatcher.clock()

    def forget(self) -> None:
        """Somebody else may sweep from now on: what is known is of the last pass."""
        self._next_at = None

    def look(self) -> None:
        """One pass. Raises UnavailableError."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        if not self._is_worth_a_write(now):
            return
        woken = dispatcher.database.write(lambda c: retry_store.wake(c, now, _AT_ONCE))
        self._next_at = woken.next_at
        if not woken.tasks:
            return
        log.info("%d tasks are tried again", len(woken.tasks))
        self._placement_loop.hint(*(task.id for task in woken.tasks))
        dispatcher.publisher.send_all(
            [Hint(PLACE, task.id, partition_queue(task.tier, task.region)) for task in woken.tasks]
        )

    def _is_worth_a_write(self, now: float) -> bool:
        self._next_at = self._dispatcher.database.read(retry_store.next_at)
        latest = now + retry_store.LONGEST_WAIT_SECONDS
        return self._next_at is not None and not now < self._next_at <= latest
