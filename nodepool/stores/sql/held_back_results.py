"""Results that are kept from the owners of their tasks until they are checked. Functions of a connection.

When one is given, and how long it is held back, is in domain/trust/holding_back.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.tables import tasks

_checks = tasks.alias("checks")
_HELD = tasks.c.held_back_until > 0


@dataclass(frozen=True, slots=True)
class HeldBackResult:
    task_id: str
    until: float
    without_checker_since: float | None  # its check waits for a node since then; None: it does not


def page(connection: Connection, limit: int, *, after: str = "") -> list[HeldBackResult]:
    """Some of them, in the order of their tasks' ids."""
    waits_since = (
        select(func.min(_checks.c.queued_at))
        .where(_checks.c.parent_id == tasks.c.id, _checks.c.state == TaskState.QUEUED)
        .scalar_subquery()
    )
    query = select(tasks.c.id, tasks.c.held_back_until, waits_since).where(_HELD, tasks.c.id > after)
    rows = connection.execute(query.order_by(tasks.c.id).limit(limit))
    return [HeldBackResult(str(row[0]), float(row[1]), row[2]) for row in rows]


def give(connection: Connection, task_ids: Sequence[str], now: float) -> list[str]:
    """These are held back no longer; those that were are returned."""
    given = connection.execute(
        update(tasks)
        .where(_HELD, tasks.c.id.in_(task_ids))
        .values(held_back_until=0, updated_at=now)
        .returning(tasks.c.id)
    )
    return [str(task_id) for task_id in given.scalars()]
