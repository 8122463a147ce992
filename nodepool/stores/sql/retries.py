"""Tasks that wait for another try, in SQL: which of them may be placed now, and when the next one may.

Functions of a connection: whoever calls them owns the transaction. An index has those that wait and no
others, so that a look costs what is due and nothing of what waits longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select, update

from nodepool.domain.tasks.retries import MAX_BACKOFF_SECONDS
from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.tables import WAITS_FOR_TRY, tasks
from nodepool.stores.sql.task_rows import TaskHint
from nodepool.stores.sql.typed_rows import columns

LONGEST_WAIT_SECONDS = float(MAX_BACKOFF_SECONDS)


@dataclass(frozen=True, slots=True)
class Woken:
    """Tasks that wait for a node from now on, and when the next one will (none: nobody waits for a try)."""

    tasks: Sequence[TaskHint]
    next_at: float | None


def wake(connection: Connection, now: float, limit: int) -> Woken:
    """Let so many go whose time has come, the earliest first.

    No wait is longer than the bound: where one is, the pool's time was set back, and it has waited.
    """
    is_due = or_(tasks.c.wait_until <= now, tasks.c.wait_until > now + LONGEST_WAIT_SECONDS)
    due = select(tasks.c.id).where(WAITS_FOR_TRY, is_due).order_by(tasks.c.wait_until).limit(limit)
    ids = list(connection.execute(due).scalars())
    found: Sequence[TaskHint] = ()
    if ids:
        connection.execute(
            update(tasks)
            .where(tasks.c.id.in_(ids), WAITS_FOR_TRY)
            .values(wait_until=0.0, queued_at=now, hinted_at=now, updated_at=now)
        )
        hints = select(*columns(TaskHint, tasks)).where(
            tasks.c.id.in_(ids), tasks.c.state.concat("") == TaskState.QUEUED
        )
        found = TaskHint.from_rows(connection.execute(hints))
    return Woken(found, next_at(connection))


def next_at(connection: Connection) -> float | None:
    """When the first of those that wait is due; none: nobody waits."""
    return connection.execute(select(func.min(tasks.c.wait_until)).where(WAITS_FOR_TRY)).scalar()
