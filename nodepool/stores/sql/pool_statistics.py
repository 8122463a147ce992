"""What metrics ask of SQL: tasks by state, and what those who wait are waiting for.

Functions of a connection. Each reads an index and no more of the table than what waits, and PostgreSQL ends
one that takes too long; how often they are asked is for the caller to bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, case, func, select, text, tuple_

from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.task_lists import Place
from nodepool.stores.sql.tasks import WAITS

_LONGEST_MS = 20_000
UNFINISHED = tuple(state for state in TaskState if state not in FINAL_TASK_STATES)
FINAL = tuple(state for state in TaskState if state in FINAL_TASK_STATES)


@dataclass(frozen=True, slots=True)
class WaitingTasks:
    """Those who wait with one reason; `oldest_at` is when the first of them began to."""

    tier: str
    region: str
    reason_code: str
    reason_parameters: str
    count: int
    oldest_at: float


def count_by_state(connection: Connection, states: tuple[TaskState, ...]) -> dict[TaskState, int]:
    """Of each of these states."""
    _bound(connection)
    query = select(tasks.c.state, func.count()).where(tasks.c.state.in_(states)).group_by(tasks.c.state)
    found = {str(state): int(count) for state, count in connection.execute(query)}
    return {state: found.get(state, 0) for state in states}


def count_some(
    connection: Connection, state: TaskState, after: Place | None, limit: int
) -> tuple[int, Place | None]:
    """How many tasks in this state are among the next so many, and the last of these; None: that was all."""
    _bound(connection)
    place = tasks.c.created_at, tasks.c.id
    those = select(*place).where(tasks.c.state == state).order_by(*place)
    if after is not None:
        those = those.where(tuple_(*place) > after)
    last = connection.execute(those.offset(limit - 1).limit(1)).one_or_none()
    if last is not None:
        return limit, (float(last.created_at), str(last.id))
    rest = those.limit(limit).subquery()
    return int(connection.execute(select(func.count()).select_from(rest)).scalar_one()), None


def waiting(connection: Connection) -> list[WaitingTasks]:
    """All who wait for a node, in groups of equal tier, region and reason."""
    _bound(connection)
    since = case((tasks.c.queued_at > 0, tasks.c.queued_at), else_=tasks.c.created_at)
    alike = (tasks.c.tier, tasks.c.region, tasks.c.reason_code, tasks.c.reason_parameters)
    query = select(*alike, func.count(), func.min(since)).where(WAITS).group_by(*alike)
    return [WaitingTasks(*row) for row in connection.execute(query)]


def _bound(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = {_LONGEST_MS}"))
