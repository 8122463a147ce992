"""Tasks with several runs that a crash or a lost owner left behind: what is due is done by the sweep.

Each end of a run does what follows from it in its own transaction. What follows from time alone, such as a
majority that has waited long enough, nobody else does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from dispatcher.context import Dispatcher
from nodepool.domain.ends.effects import FollowUp
from nodepool.domain.ends.task_runs import ParentTask
from nodepool.domain.trust import holding_back
from nodepool.domain.trust.audits import MOST_BLOCK_SECONDS
from nodepool.stores.sql import held_back_results, provisional_results, replicas as replica_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.workflows import audit as audit_ends, replica_vote
from nodepool.workflows.decision import Deciding, deciding

log = logging.getLogger(__name__)
# Looked at in one pass; the next one goes on from there.
_AT_ONCE = 200
_IsDue = Callable[[Connection, str, Deciding], bool]
_Follow = Callable[[Connection, ParentTask, Deciding], FollowUp]


class PendingVotes:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._after = self._after_checked = self._after_held = ""

    def settle(self) -> None:
        """A page of them."""
        dispatcher = self._dispatcher
        now = deciding(dispatcher.settings, dispatcher.clock())
        page = dispatcher.database.read(lambda c: replica_store.undecided(c, _AT_ONCE, after=self._after))
        self._after = page[-1] if len(page) == _AT_ONCE else ""
        self._settle(page, now, replica_vote.is_due, replica_vote.follow_up)
        page = dispatcher.database.read(
            lambda c: provisional_results.under_check(c, _AT_ONCE, after=self._after_checked)
        )
        self._after_checked = page[-1] if len(page) == _AT_ONCE else ""
        self._settle(page, now, audit_ends.is_due, audit_ends.follow_up)
        self._close_blocks(now)
        self._give(now.now)

    def _give(self, now: float) -> None:
        """Results that have been held back long enough, whatever became of their check."""
        dispatcher = self._dispatcher
        page = dispatcher.database.read(lambda c: held_back_results.page(c, _AT_ONCE, after=self._after_held))
        self._after_held = page[-1].task_id if len(page) == _AT_ONCE else ""
        due = [
            it.task_id
            for it in page
            if not holding_back.waits_longer(
                it.until, without_checker_since=it.without_checker_since, now=now
            )
        ]
        if not due:
            return
        for task_id in dispatcher.database.write(lambda c: held_back_results.give(c, due, now)):
            log.info("the result of task %s is given before it is checked", task_id)
            dispatcher.lifecycle.outputs.announce(task_id)

    def _settle(self, page: list[str], now: Deciding, is_due: _IsDue, follow_up: _Follow) -> None:
        due = self._dispatcher.database.read(
            lambda c: [task_id for task_id in page if is_due(c, task_id, now)]
        )
        for task_id in due:
            self._follow_up(task_id, now, follow_up)

    def _close_blocks(self, now: Deciding) -> None:
        """Those that are not full after a long time."""
        dispatcher = self._dispatcher
        before = now.now - MOST_BLOCK_SECONDS
        for node_id in dispatcher.database.read(lambda c: provisional_results.blocks_since_before(c, before)):
            added = dispatcher.database.write(
                lambda c, node_id=node_id: audit_ends.close_block(c, node_id, now),  # type: ignore[misc]
                sharing=ledger_store.TOGETHER,
            )
            for run in added:
                dispatcher.publisher.place(run.task_id, run.tier, run.region)

    def _follow_up(self, task_id: str, now: Deciding, follow_up: _Follow) -> None:
        def work(connection: Connection) -> FollowUp | None:
            parent = replica_store.lock(connection, task_id)
            return follow_up(connection, parent, now) if parent is not None else None

        follow = self._dispatcher.database.write(work, sharing=ledger_store.TOGETHER)
        if follow is not None:
            log.info("runs of task %s: %d added, %d stopped, ended: %s", task_id, len(follow.added),
                     len(follow.stopped), follow.ended)  # fmt: skip
            self._dispatcher.lifecycle.publish_follow_up(follow)
