"""Whose waiting tasks there is money for: those that hold their price only when they are placed.

What a user can spend is read every so often, and what this dispatcher places is taken off at once. Tasks that
it does not cover leave the order of those who wait until there is enough: one user without money costs one
balance in one query, however many of their tasks wait. The hold itself, in the transaction that places, has
the last word. It must not know nodes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable

from dispatcher.context import Dispatcher
from nodepool.domain.money.pricing import is_covered
from nodepool.domain.scheduling.wait_queue import WaitingTask, WaitQueue
from nodepool.domain.tasks.reasons import waits_for_cpt
from nodepool.stores.sql import placements as placing
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.task_rows import QueuedTask

log = logging.getLogger(__name__)

_READ_SECONDS = 2.0
# When something ended while somebody waits for money: no more often than this.
_READ_AGAIN_SECONDS = 0.2
_TELL_SECONDS = 5.0


class SpendingLimits:
    """For the placement loop's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        # Users with tasks that hold nothing yet -> what they can spend.
        self._balances: dict[int, int] = {}
        self._read_at = float("-inf")
        # User -> when they may be told again, and of how many tasks they were.
        self._told: dict[int, tuple[float, int]] = {}

    def add_tasks(self, rows: Iterable[QueuedTask]) -> None:
        """The owners of these waiting tasks are in the wait queue now."""
        if strangers := {row.owner_id for row in rows if row.to_hold} - self._balances.keys():
            self._read(strangers)

    def affords(self, task: WaitingTask) -> bool:
        return is_covered(self._balances.get(task.owner_id, 0), task.to_hold)

    def count_placed(self, task: WaitingTask, times: int) -> None:
        if task.to_hold and task.owner_id in self._balances:
            self._balances[task.owner_id] -= times * task.to_hold

    def not_covered(self, owner_ids: Collection[int]) -> None:
        """Their money went elsewhere meanwhile."""
        self._read(owner_ids)

    def look(self, queue: WaitQueue, now: float, *, ended: bool) -> None:
        """Read again when it is time to; `ended`: something on a node may have ended and given money back."""
        monotonic, waiting = time.monotonic(), queue.without_money()
        patience = _READ_AGAIN_SECONDS if ended and waiting else _READ_SECONDS
        if monotonic - self._read_at < patience:
            return
        self._read_at = monotonic
        here = self._balances.keys() & queue.owners()
        self._balances = {}
        self._read(here)
        for owner_id in waiting:
            queue.money_came(owner_id, self._balances.get(owner_id, 0), now)

    def _read(self, owner_ids: Collection[int]) -> None:
        if owner_ids:
            found = self._dispatcher.database.read(lambda c: ledger_store.balances(c, owner_ids))
            self._balances |= {owner_id: found.get(owner_id, 0) for owner_id in owner_ids}

    def write_reasons(self, queue: WaitQueue) -> None:
        """That they wait for money."""
        now, waiting = time.monotonic(), queue.without_money()
        for owner_id in waiting:
            by_amount = queue.unpaid_of(owner_id)
            count = sum(map(len, by_amount.values()))
            until, told = self._told.get(owner_id, (0.0, 0))
            if now < until and count <= told:
                continue
            self._told[owner_id] = now + _TELL_SECONDS, count
            for amount, task_ids in by_amount.items():
                self._write(task_ids, amount)
        if len(self._told) > 2 * len(waiting) + 100:
            self._told = {owner_id: told for owner_id, told in self._told.items() if told[0] > now}

    def _write(self, task_ids: list[str], amount: int) -> None:
        reason, now = waits_for_cpt(amount), self._dispatcher.clock()
        news = self._dispatcher.database.write(lambda c: placing.set_reason(c, task_ids, reason, now))
        if news:
            log.info("%d tasks wait: %s", len(news), reason)
