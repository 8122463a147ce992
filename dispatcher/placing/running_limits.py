"""How many tasks of a user may be on nodes at once, by the tier that their credit score opens.

What runs is counted in SQL every so often, and what this dispatcher places is added at once. A user who has
as many as they may is held: none of their tasks comes up until something of theirs has ended. Several
dispatchers do not see each other's placements between two counts, so that for a moment a few more may run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from dispatcher.context import Dispatcher
from nodepool.domain.scheduling.wait_queue import WaitingTask, WaitQueue
from nodepool.domain.trust.access_limits import LIMITS, running_limit
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql import placements as placing
from nodepool.stores.sql.task_rows import QueuedTask

log = logging.getLogger(__name__)

_COUNT_SECONDS = 2.0
# When something ended while somebody is held: no more often than this.
_COUNT_AGAIN_SECONDS = 0.2
_TELL_SECONDS = 5.0


class RunningLimits:
    """For the placement loop's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        # Users whose tasks are limited at all -> how many are on nodes.
        self._running: dict[int, int] = {}
        self._counted_at = float("-inf")
        # User -> when they may be told again.
        self._told: dict[int, float] = {}

    def add_tasks(self, rows: Iterable[QueuedTask]) -> None:
        """The owners of these waiting tasks are in the wait queue now."""
        strangers = {row.owner_id for row in rows if row.tier != Tier.HIGH} - self._running.keys()
        if strangers:
            self._count(strangers)

    def allows(self, task: WaitingTask) -> bool:
        """May its owner have one more on a node?"""
        running = self._running.get(task.owner_id, 0)
        return not task.limited or running < LIMITS[task.requirements.tier].running_tasks

    def count_placed(self, task: WaitingTask, times: int) -> None:
        if task.limited and task.owner_id in self._running:
            self._running[task.owner_id] += times

    def look(self, queue: WaitQueue, now: float, *, ended: bool) -> None:
        """Count again when it is time to; `ended`: something may have ended on a node."""
        monotonic = time.monotonic()
        patience = _COUNT_AGAIN_SECONDS if ended and queue.held else _COUNT_SECONDS
        if monotonic - self._counted_at < patience:
            return
        self._counted_at = monotonic
        here = self._running.keys() & queue.owners()
        self._running = {}
        self._count(here)
        # Whoever still has too many is held again when their first task comes up.
        for owner_id in list(queue.held):
            queue.let_go(owner_id, now)

    def _count(self, owner_ids: Collection[int]) -> None:
        if owner_ids:
            found = self._dispatcher.database.read(lambda c: placing.running_of(c, owner_ids))
            self._running |= {owner_id: found.get(owner_id, 0) for owner_id in owner_ids}

    def write_reasons(self, queue: WaitQueue) -> None:
        """Why the tasks of those who are held wait."""
        now = time.monotonic()
        for owner_id in queue.held:
            if now < self._told.get(owner_id, 0.0):
                continue
            tasks = queue.of_owner(owner_id)
            self._told[owner_id] = now + _TELL_SECONDS
            if tasks:
                self._write([task.task_id for task in tasks], owner_id, tasks[0].requirements.tier)
        if len(self._told) > 2 * len(queue.held) + 100:
            self._told = {owner_id: until for owner_id, until in self._told.items() if until > now}

    def _write(self, task_ids: list[str], owner_id: int, tier: Tier) -> None:
        reason = running_limit(self._running.get(owner_id, 0), tier)
        now = self._dispatcher.clock()
        news = self._dispatcher.database.write(lambda c: placing.set_reason(c, task_ids, reason, now))
        if news:
            log.info("%d tasks wait: %s", len(news), reason)
