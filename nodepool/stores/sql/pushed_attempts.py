"""Attempts on nodes without an agent: what it takes to call the node, and that each is sent at most once.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, case, func, select, update

from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import LIVE_ATTEMPT_STATES, AttemptState
from nodepool.stores.sql.tables import attempts, holds, nodes, tasks

_LIVE = [state.value for state in LIVE_ATTEMPT_STATES]
_BETWEEN_TASKS_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0
_COLUMNS: Select[Any] = (
    select(
        attempts.c.id,
        attempts.c.task_id,
        attempts.c.number,
        attempts.c.node_id,
        attempts.c.state,
        attempts.c.created_at,
        attempts.c.pushed_at,
        attempts.c.started_at,
        tasks.c.attempt_number,
        tasks.c.node_id.label("task_node"),
        tasks.c.stop_requested,
        tasks.c.package_sha256,
        tasks.c.package_bytes,
        tasks.c.max_minutes,
        tasks.c.result_attempt,
        tasks.c.price_per_minute,
        holds.c.fee_percent,
        nodes.c.kind,
        nodes.c.active,
        nodes.c.owner_id,
        nodes.c.hostname,
        nodes.c.port,
        nodes.c.peer_address,
    )
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    # A run of another task has no hold of its own, and its node is to see no difference.
    .outerjoin(holds, holds.c.task_id == case((tasks.c.parent_id != "", tasks.c.parent_id), else_=tasks.c.id))
)


def find(connection: Connection, attempt_id: str) -> Row[Any] | None:
    """The attempt with its task and its node, of whatever kind and state."""
    return connection.execute(_COLUMNS.where(attempts.c.id == attempt_id)).one_or_none()


def current(connection: Connection, task_id: str, number: int) -> Row[Any] | None:
    """The same, by its task and its number there."""
    return connection.execute(
        _COLUMNS.where(attempts.c.task_id == task_id, attempts.c.number == number)
    ).one_or_none()


def had(connection: Connection, task_id: str, owner_id: int) -> bool:
    """Whether a node of this owner has or had an attempt of the task, so that he knows of it."""
    query = (
        select(attempts.c.id)
        .join(nodes, nodes.c.id == attempts.c.node_id)
        .where(attempts.c.task_id == task_id, nodes.c.owner_id == owner_id)
    )
    return connection.execute(query.limit(1)).first() is not None


def live(connection: Connection, attempt_ids: Sequence[str] | None = None) -> Sequence[Row[Any]]:
    """Live attempts on nodes without an agent: these, or all."""
    query = _COLUMNS.where(attempts.c.state.in_(_LIVE), nodes.c.kind == NodeKind.PUSHED)
    if attempt_ids is not None:
        query = query.where(attempts.c.id.in_(attempt_ids))
    return connection.execute(query.order_by(attempts.c.created_at)).all()


def is_live(row: Row[Any]) -> bool:
    return row.state in LIVE_ATTEMPT_STATES and row.attempt_number == row.number


def pause_seconds(connection: Connection, row: Row[Any], now: float) -> float:
    """How long to wait before the node is called with this attempt.

    A worker says that a task has ended a moment before it is free for the next one. And one that
    refused or lost this task before is not asked again at once: all attempts would be gone in no time.
    """
    others = attempts.c.node_id == row.node_id, attempts.c.id != row.id
    last = connection.execute(select(func.max(attempts.c.finished_at)).where(*others)).scalar() or 0.0
    before = connection.execute(
        select(func.count(), func.max(attempts.c.finished_at)).where(
            *others, attempts.c.task_id == row.task_id
        )
    ).one()
    free_at = last + _BETWEEN_TASKS_SECONDS
    if before[0]:
        free_at = max(free_at, before[1] + min(_LONGEST_PAUSE_SECONDS, float(2 ** (before[0] - 1))))
    return max(0.0, min(_LONGEST_PAUSE_SECONDS, free_at - now))


def mark_pushed(connection: Connection, attempt_id: str, now: float) -> bool:
    """True for the one caller who may send the attempt; however often its hint comes, nobody else gets it."""
    marked = connection.execute(
        update(attempts)
        .where(
            attempts.c.id == attempt_id,
            attempts.c.state == AttemptState.ASSIGNED,
            attempts.c.pushed_at == 0,
        )
        .values(pushed_at=now)
    )
    return bool(marked.rowcount)
