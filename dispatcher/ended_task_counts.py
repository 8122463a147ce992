"""How many ended tasks there are in each state, for a pool that has a million of them.

They are all counted once. Afterwards each look counts a part of them anew, in the order in which they were
submitted, and shows a state's number when it has been through: of a small pool everything each time, and of a
large one what was true some looks ago. For one thread.
"""

from __future__ import annotations

from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql import pool_statistics
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.pool_statistics import FINAL
from nodepool.stores.sql.task_lists import Place

# Of one look: a few milliseconds.
_AT_ONCE = 20_000


class EndedTaskCounts:
    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._at_once = at_once
        self._shown: dict[TaskState, int] = {}
        self._state, self._counted = 0, 0
        self._after: Place | None = None

    def look(self, connection: Connection) -> dict[TaskState, int]:
        """Asks for a bounded number of rows."""
        if not self._shown:
            self._shown = pool_statistics.count_by_state(connection, FINAL)
            return dict(self._shown)
        left, states_left = self._at_once, len(FINAL)
        while left > 0 and states_left:
            found, self._after = pool_statistics.count_some(connection, FINAL[self._state], self._after, left)
            left -= found
            self._counted += found
            if self._after is None:
                self._shown[FINAL[self._state]] = self._counted
                self._state, self._counted = (self._state + 1) % len(FINAL), 0
                states_left -= 1
        return dict(self._shown)
