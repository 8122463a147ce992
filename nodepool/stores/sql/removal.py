"""What ended tasks keep that goes after a while, in SQL: which tasks are due, and what is marked and removed.

Functions of a connection. A file is never removed before SQL says that it is gone: first it is marked, and
`storage_due` stays until it is removed (storage_accounting). A row goes last, when nothing of it is left
anywhere. Money stays: holds and the ledger outlive their task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, delete, func, literal, or_, select, text, update

from nodepool.domain.errors import StateConflictError
from nodepool.domain.money.ledger import HoldState
from nodepool.domain.not_visible import no_task
from nodepool.domain.tasks.states import FINAL_TASK_STATES, JobKind, TaskKind, TaskState, Verification
from nodepool.events.catalogue import TaskDeleted
from nodepool.stores.sql import jobs as job_store, task_labels
from nodepool.stores.sql.held_back_results import NOT_HELD
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.tables import (
    attempts,
    credit_changes,
    holds,
    jobs,
    probes,
    provisional_results,
    tasks,
)

_FINAL = [state.value for state in FINAL_TASK_STATES]
_LIVE = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
# As the indexes have them, word for word: a database takes a partial index only where it sees that it fits.
# Runs of tasks go with those; that they have a parent would lead SQLite to the index of all parents.
_ENDED = "tasks.finished_at IS NOT NULL AND tasks.kind <> 'replica' AND tasks.kind <> 'audit'"
_WITH_FILES = text(f"{_ENDED} AND tasks.files_removed_at = 0")
_WITHOUT_FILES = text(f"{_ENDED} AND tasks.files_removed_at > 0")
_WITH_LOG = text("tasks.log_bytes > 0")
_DELETED = text("tasks.deleted_at > 0")
_runs = tasks.alias("runs")
_parents = tasks.alias("parents")


def _has(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the task has a row of another table, found by this column."""
    return select(column).where(column == tasks.c.id, *conditions).exists()


def _has_job(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return (tasks.c.job_id != "") & select(jobs.c.id).where(jobs.c.id == tasks.c.job_id, *conditions).exists()


_RUNS_GO_ON = _has(_runs.c.parent_id, _runs.c.state.not_in(_FINAL))
_IS_CHECKED = _has(provisional_results.c.task_id)
_PROBE_IS_OPEN = _has(probes.c.task_id, probes.c.verdict == "")
_HOLDS = _has(holds.c.task_id, holds.c.state == HoldState.HELD)
# Steps of a flow are given results of others: all of them stay until it has ended, and so do those of a flow
# that an open one goes on from.
_OPEN_FLOW = jobs.c.kind == JobKind.FLOW, jobs.c.ended_at.is_(None)
_GONE_ON_FROM = select(jobs.c.resubmit_of).where(*_OPEN_FLOW, jobs.c.resubmit_of != "")
_IN_OPEN_FLOW = _has_job(*_OPEN_FLOW) | ((tasks.c.job_id != "") & tasks.c.job_id.in_(_GONE_ON_FROM))
# Nobody will ask for its package or result any more but its owner.
_AT_REST = (
    tasks.c.state.not_in(_LIVE)
    & (tasks.c.verification != Verification.PENDING)
    & NOT_HELD
    & ~_IS_CHECKED
    & ~_PROBE_IS_OPEN
    & ~_RUNS_GO_ON
    & ~_IN_OPEN_FLOW
)


@dataclass(frozen=True, slots=True)
class ExpiredFiles:
    """A task whose result and package go; `attempt_id` is the one whose output is the task's."""

    task_id: str
    attempt_id: str
    has_result: bool
    result_bytes: int
    finished_at: float
    is_users: bool


def with_files(connection: Connection, before: float, limit: int) -> list[ExpiredFiles]:
    """Tasks that ended before that and keep files nobody needs, the oldest first."""
    columns = tasks.c.id, tasks.c.result_attempt, tasks.c.result_bytes, tasks.c.finished_at, tasks.c.kind
    query = (
        select(*columns, attempts.c.id.label("last"))
        .outerjoin(
            attempts, (attempts.c.task_id == tasks.c.id) & (attempts.c.number == tasks.c.attempt_number)
        )
        .where(_WITH_FILES, tasks.c.finished_at < before, _AT_REST)
        .order_by(tasks.c.finished_at)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    return [
        ExpiredFiles(
            task_id=row.id,
            attempt_id=row.result_attempt or row.last or "",
            has_result=bool(row.result_attempt),
            result_bytes=row.result_bytes,
            finished_at=row.finished_at,
            is_users=row.kind == TaskKind.USER,
        )
        for row in rows
    ]


def remove_files(connection: Connection, log_bytes: Mapping[str, int], now: float) -> list[str]:
    """Mark the files of these tasks as gone; of each so much output is kept apart. Those that were marked are
    returned: storage_accounting settles them, whoever removes the files."""
    marked = []
    for task_id, size in sorted(log_bytes.items()):
        done = connection.execute(
            update(tasks)
            .where(tasks.c.id == task_id, tasks.c.files_removed_at == 0, _AT_REST)
            .values(files_removed_at=now, log_bytes=size, storage_due=True)
        )
        if done.rowcount:
            marked.append(task_id)
    return marked


def with_logs(connection: Connection, before: float, limit: int) -> list[str]:
    query = select(tasks.c.id).where(_WITH_LOG, tasks.c.finished_at < before)
    return list(connection.execute(query.order_by(tasks.c.finished_at).limit(limit)).scalars())


def remove_logs(connection: Connection, task_ids: Sequence[str]) -> None:
    """Mark them as gone; their files go when that is settled."""
    connection.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(log_bytes=0, storage_due=True))


def mark_deleted(connection: Connection, task_id: str, owner_id: int, now: float) -> None:
    """Its owner wants it gone. Raises NotFoundError, and StateConflictError where it cannot go yet."""
    mine = tasks.c.id == task_id, tasks.c.owner_id == owner_id, tasks.c.kind == TaskKind.USER
    done = connection.execute(
        update(tasks)
        .where(*mine, tasks.c.deleted_at == 0, _AT_REST, ~_HOLDS)
        .values(
            deleted_at=now,
            files_removed_at=func.coalesce(func.nullif(tasks.c.files_removed_at, 0), now),
            log_bytes=0,
            storage_due=True,
            updated_at=now,
        )
    )
    if done.rowcount:
        note(connection, TaskDeleted(task=task_id, owner_id=owner_id))
        return
    row = connection.execute(select(tasks).where(*mine, tasks.c.deleted_at == 0)).one_or_none()
    if row is None:
        raise no_task(task_id)
    raise StateConflictError(_why_not(row, task_id))


def _why_not(row: Any, task_id: str) -> str:
    if row.state not in _FINAL:
        return f"task {task_id} has not ended ({row.state}): stop it first (hivemind stop {task_id})"
    if row.held_back_until > 0:
        return (
            f"task {task_id} has run, and its result is being checked: stop it first, and its result is "
            f"given unchecked (hivemind stop {task_id}), or wait for the check"
        )
    if row.verification == Verification.PENDING:
        return f"the result of task {task_id} is being checked; delete it when that is over"
    if row.job_id:
        return (
            f"task {task_id} is of a flow that has not ended: later steps may be given its result; stop the "
            f"flow first (hivemind job stop {row.job_id})"
        )
    return f"runs of task {task_id} are just being ended; try again in a moment"


# -- rows ----------------------------------------------------------------------------------------------
def removable(
    connection: Connection, *, before: float | None, deleted_before: float, limit: int
) -> list[str]:
    """Tasks of which nothing is left but rows: ended before the one, or deleted before the other time."""
    deleted = select(tasks.c.id).where(_DELETED, tasks.c.deleted_at < deleted_before, _nothing_left())
    found = list(connection.execute(deleted.order_by(tasks.c.deleted_at).limit(limit)).scalars())
    if before is None or len(found) >= limit:
        return found
    old = select(tasks.c.id).where(_WITHOUT_FILES, tasks.c.finished_at < before, _nothing_left())
    rows = connection.execute(old.order_by(tasks.c.finished_at).limit(limit - len(found)))
    return [*found, *(task_id for task_id in rows.scalars() if task_id not in found)]


def _nothing_left() -> ColumnElement[bool]:
    return tasks.c.storage_due.is_(False) & (tasks.c.log_bytes == 0) & _AT_REST & ~_HOLDS


def remove_rows(connection: Connection, task_ids: Sequence[str], now: float) -> int:
    """These tasks with their runs, attempts and probes, and jobs of which they were the last. Their holds say
    when that was."""
    query = (
        select(tasks.c.id)
        .where(tasks.c.id.in_(task_ids), tasks.c.files_removed_at > 0, _nothing_left())
        .with_for_update(of=tasks, skip_locked=True)
    )
    mine = list(connection.execute(query).scalars())
    if not mine:
        return 0
    family = [*connection.execute(select(tasks.c.id).where(tasks.c.parent_id.in_(mine))).scalars(), *mine]
    of_jobs = select(tasks.c.job_id).where(tasks.c.id.in_(mine), tasks.c.job_id != "").distinct()
    job_ids = list(connection.execute(of_jobs).scalars())
    connection.execute(delete(attempts).where(attempts.c.task_id.in_(family)))
    connection.execute(delete(probes).where(probes.c.task_id.in_(family)))
    task_labels.remove(connection, mine)
    connection.execute(update(holds).where(holds.c.task_id.in_(family)).values(task_removed_at=now))
    connection.execute(delete(tasks).where(tasks.c.id.in_(family)))
    job_store.remove_empty(connection, job_ids)
    return len(mine)


def had_hold(connection: Connection, task_id: str, account_id: str = "") -> bool:
    """Whether there was ever a task of this id that held something: of anybody, or of this account."""
    query = select(holds.c.task_id).where(holds.c.task_id == task_id)
    if account_id:
        query = query.where(holds.c.account_id == account_id)
    return connection.execute(query).first() is not None


def attempts_of(connection: Connection, task_id: str) -> list[str]:
    """Of the task and of its runs."""
    family = select(tasks.c.id).where(or_(tasks.c.id == task_id, tasks.c.parent_id == task_id))
    return list(connection.execute(select(attempts.c.id).where(attempts.c.task_id.in_(family))).scalars())


# -- counted -------------------------------------------------------------------------------------------
def count_with_files(before: float) -> Select[*tuple[Any, ...]]:
    """How many results, and their bytes."""
    query: Select[*tuple[Any, ...]] = select(func.count(), func.sum(tasks.c.result_bytes))
    return query.where(_WITH_FILES, tasks.c.finished_at < before, tasks.c.result_attempt != "", _AT_REST)


def count_with_logs(before: float) -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = select(func.count(), func.sum(tasks.c.log_bytes))
    return query.where(_WITH_LOG, tasks.c.finished_at < before)


def count_old(before: float) -> Select[*tuple[Any, ...]]:
    ended = text(_ENDED), tasks.c.finished_at < before
    query: Select[*tuple[Any, ...]] = select(func.count(), literal(0))
    return query.where(*ended, _AT_REST)


def remove_credit_changes(connection: Connection, before: float, limit: int) -> int:
    """The oldest reasons of what scores are; the scores stay."""
    oldest = select(credit_changes.c.seq, credit_changes.c.created_at).order_by(credit_changes.c.seq)
    old = [row.seq for row in connection.execute(oldest.limit(limit)) if row.created_at < before]
    if old:
        connection.execute(delete(credit_changes).where(credit_changes.c.seq.in_(old)))
    return len(old)


def oldest_credit_change(connection: Connection) -> float | None:
    """When the oldest one that is kept was; none: there is none."""
    oldest = select(credit_changes.c.created_at).order_by(credit_changes.c.seq).limit(1)
    return connection.execute(oldest).scalar()


# -- files that no row speaks of -------------------------------------------------------------------------
def needed_results(connection: Connection, attempt_ids: Sequence[str]) -> set[str]:
    """Those of these attempts whose result somebody needs, or is about to tell of."""
    needed = or_(
        attempts.c.state.in_(["assigned", "running"]),
        (tasks.c.result_attempt == attempts.c.id) & (tasks.c.files_removed_at == 0)
        & ((tasks.c.parent_id == "") | (_parents.c.files_removed_at == 0)),
        (_parents.c.result_attempt == attempts.c.id) & (_parents.c.files_removed_at == 0),
    )  # fmt: skip
    return _those_of(connection, attempt_ids, needed)


def needed_logs(connection: Connection, attempt_ids: Sequence[str]) -> set[str]:
    # Of a run its task's columns say it.
    needed = or_(
        func.coalesce(_parents.c.files_removed_at, tasks.c.files_removed_at) == 0,
        func.coalesce(_parents.c.log_bytes, tasks.c.log_bytes) > 0,
    )
    return _those_of(connection, attempt_ids, needed)


def _those_of(connection: Connection, attempt_ids: Sequence[str], condition: ColumnElement[bool]) -> set[str]:
    """The condition is one on attempts, their tasks and, of runs, the tasks that these are runs of."""
    query = (
        select(attempts.c.id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .outerjoin(_parents, _parents.c.id == tasks.c.parent_id)
        .where(attempts.c.id.in_(attempt_ids), condition)
    )
    return set(connection.execute(query).scalars())
