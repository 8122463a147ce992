"""Results that are kept from the owners of their tasks until they are checked. Functions of a connection.

When one is given, and how long it is held back, is in domain/trust/holding_back.py. What is counted or listed
for an owner takes a task whose result is held back for one that runs, as its own status does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Integer,
    Select,
    cast,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)

from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.stores.sql.tables import HELD_BACK, tasks

_checks = tasks.alias("checks")
NOT_HELD = tasks.c.held_back_until == 0


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
    query = select(tasks.c.id, tasks.c.held_back_until, waits_since).where(HELD_BACK, tasks.c.id > after)
    rows = connection.execute(query.order_by(tasks.c.id).limit(limit))
    return [HeldBackResult(str(row[0]), float(row[1]), row[2]) for row in rows]


def give(connection: Connection, task_ids: Sequence[str], now: float) -> list[str]:
    """These are held back no longer; those that were are returned."""
    given = connection.execute(
        update(tasks)
        .where(HELD_BACK, tasks.c.id.in_(task_ids))
        .values(held_back_until=0, updated_at=now)
        .returning(tasks.c.id)
    )
    return [str(task_id) for task_id in given.scalars()]


# -- as owners see it -----------------------------------------------------------------------------------
def shown_as(state: TaskState) -> list[ColumnElement[bool]]:
    """Rows that people read as being in this state: one whose result is held back is RUNNING for them."""
    is_it = tasks.c.state == state
    if state in FINAL_TASK_STATES:
        return [is_it & NOT_HELD]
    if state is TaskState.RUNNING:
        return [is_it, HELD_BACK]
    return [is_it]


def shown_as_any(states: Collection[str]) -> ColumnElement[bool]:
    """The same, of several states."""
    return or_(*(one for state in states for one in shown_as(TaskState(state))))


def of_jobs(job_ids: Collection[str]) -> ColumnElement[bool]:
    """Of a task of these jobs, that its result is held back.

    By the index of those that are held back, which are few: no column of the job's index is named.
    """
    return HELD_BACK & tasks.c.job_id.concat("").in_(list(job_ids))


def ids_of_job(connection: Connection, job_id: str, limit: int) -> list[str]:
    return list(connection.execute(_ids(job_id).limit(limit)).scalars())


def any_of_job(connection: Connection, job_id: str) -> bool:
    return connection.execute(_ids(job_id).limit(1)).first() is not None


def _ids(job_id: str) -> Select[Any]:
    return select(tasks.c.id).where(of_jobs([job_id]))


def tasks_of(job_ids: Collection[str]) -> CTE:
    """Of these jobs, those whose result is held back: found first, and joined with nothing before."""
    found = select(tasks.c.job_id, tasks.c.job_index, tasks.c.state).where(of_jobs(job_ids))
    return found.cte("held").prefix_with("MATERIALIZED")


def counted(every: Select[Any], held: Select[Any]) -> Select[Any]:
    """Each: something, a state and a number of tasks, grouped; of all tasks, and of those that are held back.
    All of them by the states that owners see.

    One statement, since each sees another moment: the index of jobs counts all, and what is held back is
    counted once more, taken away where it is and added to what runs.
    """
    each, less = every.subquery(), held.subquery()
    parts = union_all(
        select(*each.c),
        select(less.c[0], less.c[1], -less.c[2]),
        select(less.c[0], literal(TaskState.RUNNING.value), less.c[2]),
    ).subquery()
    total = func.sum(parts.c[2])
    return select(parts.c[0], parts.c[1], cast(total, Integer)).group_by(*parts.c[:2]).having(total > 0)
