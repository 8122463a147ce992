"""Tasks with several runs that a crash or a lost owner left behind: what is due is done by the sweep.

Each end of a run does what follows from it in its own transaction. What follows from time alone, such as a
majority that has waited long enough, nobody else does.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from dispatcher.context import Dispatcher
from nodepool.stores import replica_ends, replica_store
from nodepool.stores.replica_ends import FollowUp

log = logging.getLogger(__name__)
# Looked at in one pass; the next one goes on from there.
_AT_ONCE = 200


class Comparisons:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._after = ""

    def settle(self) -> None:
        """A page of them."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        page = dispatcher.database.read(
            lambda c: [
                (task_id, replica_ends.is_due(c, task_id, now))
                for task_id in replica_store.undecided(c, _AT_ONCE, after=self._after)
            ]
        )
        self._after = page[-1][0] if len(page) == _AT_ONCE else ""
        for task_id, is_due in page:
            if is_due:
                self._follow_up(task_id, now)

    def _follow_up(self, task_id: str, now: float) -> None:
        def work(connection: Connection) -> FollowUp | None:
            parent = replica_store.lock(connection, task_id)
            if parent is None:
                return None
            return replica_ends.follow_up(connection, parent, now, start_score=start)

        start = self._dispatcher.settings.newcomer_credit_score
        follow = self._dispatcher.database.write(work)
        if follow is not None:
            log.info("runs of task %s: %d added, %d stopped, ended: %s", task_id, len(follow.added),
                     len(follow.stopped), follow.ended)  # fmt: skip
            self._dispatcher.lifecycle.tell(follow)
