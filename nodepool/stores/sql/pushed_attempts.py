"""Attempts on nodes without an agent: what it takes to call the node, and that each is sent at most once.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, select, update

from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import LIVE_ATTEMPT_STATES, AttemptState
from nodepool.stores.sql.attempt_rows import PushedAttempt
from nodepool.stores.sql.tables import LIVE_ATTEMPT, attempts, holds, nodes, tasks
from nodepool.stores.sql.typed_rows import columns

_ENDED = [state.value for state in AttemptState if state not in LIVE_ATTEMPT_STATES]
_BETWEEN_TASKS_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0
_COLUMNS: Select[Any] = (
    select(
        *columns(
            PushedAttempt,
            attempts,
            tasks,
            nodes,
            task_node=tasks.c.node_id,
            fee_percent=holds.c.fee_percent,
            kind=nodes.c.kind,
            owner_id=nodes.c.owner_id,
        )
    )
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    # A run of another task has no hold of its own, and its node is to see no difference.
    .outerjoin(holds, holds.c.task_id == case((tasks.c.parent_id != "", tasks.c.parent_id), else_=tasks.c.id))
)

# Made once: building a statement costs more than running it.
_BY_ID = _COLUMNS.where(attempts.c.id == bindparam("attempt_id"))
_BY_NUMBER = _COLUMNS.where(
    attempts.c.task_id == bindparam("task_id"), attempts.c.number == bindparam("number")
)


def find(connection: Connection, attempt_id: str) -> PushedAttempt | None:
    """The attempt with its task and its node, of whatever kind and state."""
    row = connection.execute(_BY_ID, {"attempt_id": attempt_id}).one_or_none()
    return PushedAttempt.from_row_or_none(row)


def current(connection: Connection, task_id: str, number: int) -> PushedAttempt | None:
    """The same, by its task and its number there."""
    row = connection.execute(_BY_NUMBER, {"task_id": task_id, "number": number}).one_or_none()
    return PushedAttempt.from_row_or_none(row)


def run_of(connection: Connection, parent_id: str, owner_id: int) -> str | None:
    """Of a task with runs the one whose current attempt is or was on a node of this owner."""
    query = (
        select(tasks.c.id)
        .join(attempts, (attempts.c.task_id == tasks.c.id) & (attempts.c.number == tasks.c.attempt_number))
        .join(nodes, nodes.c.id == attempts.c.node_id)
        .where(tasks.c.parent_id == parent_id, nodes.c.owner_id == owner_id)
    )
    found: str | None = connection.execute(query.order_by(tasks.c.id.desc()).limit(1)).scalar()
    return found


def had(connection: Connection, task_id: str, owner_id: int) -> bool:
    """Whether a node of this owner has or had an attempt of the task, so that they know of it."""
    query = (
        select(attempts.c.id)
        .join(nodes, nodes.c.id == attempts.c.node_id)
        .where(attempts.c.task_id == task_id, nodes.c.owner_id == owner_id)
    )
    return connection.execute(query.limit(1)).first() is not None


def live(connection: Connection, attempt_ids: Sequence[str] | None = None) -> Sequence[PushedAttempt]:
    """Live attempts on nodes without an agent: these, or all."""
    query = _COLUMNS.where(LIVE_ATTEMPT, nodes.c.kind == NodeKind.PUSHED)
    if attempt_ids is not None:
        query = query.where(attempts.c.id.in_(attempt_ids))
    return PushedAttempt.from_rows(connection.execute(query.order_by(attempts.c.created_at)))


def pause_seconds(connection: Connection, row: PushedAttempt, now: float) -> float:
    """How long to wait before the node is called with this attempt.

    A worker says that a task has ended a moment before it is free for the next one. And one that
    refused or lost this task before is not asked again at once: all attempts would be gone in no time.
    """
    others = attempts.c.node_id == row.node_id, attempts.c.id != row.id
    last = max(_last_end(connection, row, state) for state in _ENDED)
    before = connection.execute(
        select(func.count(), func.max(attempts.c.finished_at)).where(
            *others, attempts.c.task_id == row.task_id
        )
    ).one()
    free_at = last + _BETWEEN_TASKS_SECONDS
    if before[0]:
        free_at = max(free_at, before[1] + min(_LONGEST_PAUSE_SECONDS, float(2 ** (before[0] - 1))))
    return max(0.0, min(_LONGEST_PAUSE_SECONDS, free_at - now))


def _last_end(connection: Connection, row: PushedAttempt, state: str) -> float:
    """Of another attempt of its node."""
    others = attempts.c.node_id == row.node_id, attempts.c.state == state, attempts.c.id != row.id
    newest = select(attempts.c.finished_at).where(*others, attempts.c.finished_at.is_not(None))
    return connection.execute(newest.order_by(attempts.c.finished_at.desc()).limit(1)).scalar() or 0.0


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
