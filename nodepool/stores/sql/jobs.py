"""Jobs in SQL: tasks that belong together, counted by an index and gone through by another.

Only accepted ones are there (see job_intake). Nothing of a task's end is written to its job, so that the ends
of a hundred thousand tasks do not wait for one row: what a job has come to is read off its tasks, and that
it has ended is noted by the sweep. Functions of a connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    case,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)

from nodepool.domain.money.ledger import HoldState
from nodepool.domain.not_visible import no_job
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState, check_task_transition
from nodepool.stores.sql import held_back_results as held_back, job_steps
from nodepool.stores.sql.job_rows import JobMoney, JobReason, StoredJob, TaskOfJob
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import holds, jobs, tasks
from nodepool.stores.sql.task_rows import OwnedTask, TaskHint
from nodepool.stores.sql.tasks import WAITS, WITH_OWNER, find_or_none
from nodepool.stores.sql.typed_rows import begins_with, columns

LIVE = tuple(state.value for state in TaskState if state not in FINAL_TASK_STATES)
_ACCEPTED = jobs.c.accepted_at.is_not(None)
_OPEN = jobs.c.ended_at.is_(None)
_JOBS = select(*columns(StoredJob, jobs)).where(_ACCEPTED)
_BY_OPERATOR = reason_columns(because(ReasonCode.STOPPED_BY_OPERATOR))


def find(connection: Connection, job_id: str, owner_id: int) -> StoredJob:
    """Raises NotFoundError, with one answer for what is not there and what is another's."""
    row = connection.execute(_JOBS.where(jobs.c.id == job_id, jobs.c.owner_id == owner_id)).one_or_none()
    if row is None:
        raise no_job(job_id)
    return StoredJob.from_row(row)


def of_owner(
    connection: Connection, owner_id: int, limit: int, *, before: tuple[float, str] | None = None
) -> Sequence[StoredJob]:
    """Newest first; only what comes after the one with this time and id."""
    query = _JOBS.where(jobs.c.owner_id == owner_id)
    if before is not None:
        query = query.where(tuple_(jobs.c.created_at, jobs.c.id) < before)
    rows = connection.execute(query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit))
    return StoredJob.from_rows(rows)


def is_accepted(connection: Connection, job_id: str) -> bool:
    return connection.execute(select(jobs.c.id).where(jobs.c.id == job_id, _ACCEPTED)).first() is not None


# -- what it has come to -------------------------------------------------------------------------------
def counts(connection: Connection, job_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """How many tasks of each job are in each state, for its owner."""
    every = select(tasks.c.job_id, tasks.c.state, func.count()).where(_is_in(job_ids))
    held = held_back.tasks_of(job_ids).c
    query = held_back.counted(
        every.group_by(tasks.c.job_id, tasks.c.state),
        select(held.job_id, held.state, func.count()).group_by(held.job_id, held.state),
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for job_id, state, count in connection.execute(query):
        found[job_id][state] = count
    return found


def reasons(connection: Connection, job_id: str, states: Collection[str], limit: int) -> list[JobReason]:
    """Why tasks of it are in these states for its owner, most tasks first."""
    wanted = _is_in([job_id]), tasks.c.state.in_(list(states)), held_back.NOT_HELD
    told = tasks.c.state, _told("reason_code"), _told("reason")
    each = select(*told, tasks.c.job_index).where(*wanted).subquery()
    state, code, words, index = each.c
    count = func.count()
    query = (
        select(state, code, words, count, func.min(index))
        .group_by(state, code, words)
        .order_by(count.desc(), state, words)
        .limit(limit)
    )
    rows = connection.execute(query)
    return [JobReason(TaskState(row[0]), *row[1:]) for row in rows]


def _told(name: str) -> ColumnElement[str]:
    """A column of the reason. Nodes know of no operator: what they say of a stop, they say of the owner."""
    is_operators = (tasks.c.state == TaskState.STOPPED) & tasks.c.stopped_by_operator
    return case((is_operators, literal(_BY_OPERATOR[name], Text())), else_=tasks.c[name]).label(name)


def money(connection: Connection, job_id: str) -> JobMoney:
    """What its tasks hold and have paid."""
    held = func.sum(case((holds.c.state == HoldState.HELD, holds.c.amount - holds.c.posted), else_=0))
    query = select(held, func.sum(holds.c.posted)).join(tasks, tasks.c.id == holds.c.task_id)
    row = connection.execute(query.where(_is_in([job_id]))).one()
    return JobMoney(int(row[0] or 0), int(row[1] or 0))


def first_task(connection: Connection, job_id: str) -> OwnedTask | None:
    """Any of its tasks: what they have in common is the same."""
    ids = task_ids(connection, job_id, 1)
    return find_or_none(connection, ids[0]) if ids else None


def next_unpaid(connection: Connection, job_id: str) -> OwnedTask | None:
    """The first of its tasks that wait and hold nothing yet."""
    waiting = _is_in([job_id]) & WAITS & (tasks.c.attempt_number == 0)
    query = WITH_OWNER.where(waiting).order_by(tasks.c.job_index).limit(1)
    return OwnedTask.from_row_or_none(connection.execute(query).one_or_none())


def tasks_page(
    connection: Connection,
    job_id: str,
    limit: int,
    *,
    after: int,
    states: Collection[str],
    last: int | None = None,
) -> Sequence[OwnedTask]:
    """A page of its tasks in the order of their indices, up to the last one; those that are in one of these
    states for its owner."""
    query = WITH_OWNER.where(_is_in([job_id]), tasks.c.job_index > after, tasks.c.deleted_at == 0)
    if last is not None:
        query = query.where(tasks.c.job_index <= last)
    if states:
        query = query.where(held_back.shown_as_any(states))
    return OwnedTask.from_rows(connection.execute(query.order_by(tasks.c.job_index).limit(limit)))


def task_ids(
    connection: Connection, job_id: str, limit: int, *, after: int = -1, states: Collection[str] = ()
) -> list[str]:
    """A page of its tasks in the order of their indices."""
    query = select(tasks.c.id).where(_is_in([job_id]), tasks.c.job_index > after)
    if states:
        query = query.where(tasks.c.state.in_(list(states)))
    return list(connection.execute(query.order_by(tasks.c.job_index).limit(limit)).scalars())


def _is_in(job_ids: Collection[str]) -> ColumnElement[bool]:
    # The empty id is no job's: said, so that the partial index is taken.
    return (tasks.c.job_id != "") & tasks.c.job_id.in_(list(job_ids))


# -- the dispatcher -----------------------------------------------------------------------------------
def waiting_page(connection: Connection, job_id: str, after: int, limit: int) -> list[TaskOfJob]:
    """Its tasks that wait for a node, in the order of their indices."""
    query = select(*columns(TaskOfJob, tasks)).where(_is_in([job_id]), WAITS, tasks.c.job_index > after)
    return TaskOfJob.from_rows(connection.execute(query.order_by(tasks.c.job_index).limit(limit)))


def first_waiting(connection: Connection, job_id: str) -> TaskHint | None:
    query = select(*columns(TaskHint, tasks)).where(_is_in([job_id]), WAITS)
    return TaskHint.from_row_or_none(
        connection.execute(query.order_by(tasks.c.job_index).limit(1)).one_or_none()
    )


def open_jobs(connection: Connection, limit: int) -> Sequence[StoredJob]:
    """Those that have not ended, for all that is known, the longest untold first."""
    query = _JOBS.where(_OPEN).order_by(jobs.c.hinted_at, jobs.c.id).limit(limit)
    return StoredJob.from_rows(connection.execute(query))


def mark_hinted(connection: Connection, job_ids: Collection[str], now: float) -> None:
    connection.execute(update(jobs).where(jobs.c.id.in_(list(job_ids))).values(hinted_at=now))


def is_unfinished(connection: Connection, job_id: str) -> bool:
    """For its owner, who has not seen the end of what is held back."""
    unfinished = select(tasks.c.id).where(_is_in([job_id]), tasks.c.state.in_(LIVE)).limit(1)
    is_live = connection.execute(unfinished).first() is not None
    return is_live or held_back.any_of_job(connection, job_id)


def note_end(connection: Connection, job_id: str, now: float) -> None:
    """Nothing of the job is unfinished. Where its tasks have been removed meanwhile it goes, too."""
    connection.execute(update(jobs).where(jobs.c.id == job_id, _OPEN).values(ended_at=now))
    remove_empty(connection, [job_id])


# -- its owner's stop ---------------------------------------------------------------------------------
def request_stop(connection: Connection, job_id: str) -> None:
    connection.execute(update(jobs).where(jobs.c.id == job_id, _OPEN).values(stop_requested=True))


def stop_waiting(connection: Connection, job_id: str, now: float, limit: int) -> list[str]:
    """Stop so many tasks of it that wait and hold nothing; their ids."""
    waiting = (TaskState.QUEUED, TaskState.WAITING)
    for state in waiting:
        check_task_transition(state, TaskState.STOPPED)
    never_placed = tasks.c.state.in_(waiting) & (tasks.c.attempt_number == 0)
    mine = _is_in([job_id]) & never_placed & tasks.c.holds_when_placed
    ids = list(connection.execute(select(tasks.c.id).where(mine).limit(limit)).scalars())
    if ids:
        connection.execute(
            update(tasks)
            .where(tasks.c.id.in_(ids), never_placed)
            .values(
                state=TaskState.STOPPED,
                stop_requested=True,
                finished_at=now,
                updated_at=now,
                **reason_columns(because(ReasonCode.STOPPED_WAITING)),
            )
        )
    return ids


def still_to_stop(connection: Connection, job_id: str, limit: int) -> list[str]:
    """Tasks of it that hold something, and whose stop nobody has asked for."""
    mine = _is_in([job_id]), tasks.c.state.in_(LIVE), tasks.c.stop_requested.is_(False)
    return list(connection.execute(select(tasks.c.id).where(*mine).limit(limit)).scalars())


def remove_empty(connection: Connection, job_ids: Collection[str]) -> int:
    """Those of these jobs that have ended, and whose tasks are all removed."""
    if not job_ids:
        return 0
    none_left = ~select(tasks.c.id).where(tasks.c.job_id == jobs.c.id, tasks.c.job_id != "").exists()
    query = select(jobs.c.id).where(jobs.c.id.in_(sorted(job_ids)), jobs.c.ended_at.is_not(None), none_left)
    ids: list[Any] = list(connection.execute(query).scalars())
    if ids:
        job_steps.remove(connection, ids)
        connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return len(ids)


# -- by their ids, and when they are watched ------------------------------------------------------------
def own(connection: Connection, owner_id: int, job_ids: Collection[str]) -> Sequence[StoredJob]:
    """Those of these jobs that the owner has."""
    query = _JOBS.where(jobs.c.owner_id == owner_id, jobs.c.id.in_(list(job_ids)))
    return StoredJob.from_rows(connection.execute(query))


def beginning_with(connection: Connection, owner_id: int, prefix: str, limit: int) -> list[str]:
    begins = begins_with(jobs.c.id, prefix, connection)
    query = select(jobs.c.id).where(jobs.c.owner_id == owner_id, _ACCEPTED, begins)
    return list(connection.execute(query.limit(limit)).scalars())


def exit_codes_of_failed(connection: Connection, job_id: str) -> list[int | None]:
    """Each once."""
    failed = _is_in([job_id]) & (tasks.c.state == TaskState.FAILED) & held_back.NOT_HELD
    return list(connection.execute(select(tasks.c.exit_code).where(failed).distinct()).scalars())
