"""Tasks and jobs that have ended, and of which people asked to be told: found by an index of those alone.

Functions of a connection. What is told of a job is read off its tasks, when nothing of it is unfinished and
no result is held back from its owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, text, update

from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.held_back_results import NOT_HELD
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.tables import holds, jobs, tasks
from nodepool.stores.sql.typed_rows import FromRow, columns

# As the indexes have them, word for word.
_TASKS = text("tasks.notify <> '' AND tasks.notified_at = 0 AND tasks.finished_at IS NOT NULL")
_JOBS = text("jobs.notify <> '' AND jobs.notified_at = 0 AND jobs.ended_at IS NOT NULL")


@dataclass(frozen=True, slots=True)
class TaskToTell(FromRow):
    """An ended task as its owner is told of it."""

    id: str
    owner_id: int
    name: str
    labels: str  # JSON
    state: TaskState
    reason: str
    reason_code: str
    stopped_by_operator: bool
    exit_code: int | None
    node_id: str
    replicas: int
    attempt_number: int
    created_at: float
    started_at: float | None
    finished_at: float
    job_id: str
    resubmit_of: str
    notify: str  # names of targets, one a line
    paid_cpt: int | None


def tasks_to_tell(connection: Connection, limit: int) -> Sequence[TaskToTell]:
    """The longest ended first. One whose result is held back has not ended for its owner."""
    query = (
        select(*columns(TaskToTell, tasks, paid_cpt=holds.c.posted))
        .outerjoin(holds, holds.c.task_id == tasks.c.id)
        .where(_TASKS, NOT_HELD)
        .order_by(tasks.c.finished_at)
    )
    return TaskToTell.from_rows(connection.execute(query.limit(limit)))


def jobs_to_tell(connection: Connection, limit: int) -> Sequence[StoredJob]:
    held = select(tasks.c.id).where(
        tasks.c.job_id != "", tasks.c.job_id == jobs.c.id, tasks.c.held_back_until > 0
    )
    query = select(*columns(StoredJob, jobs)).where(_JOBS, ~held.exists()).order_by(jobs.c.ended_at)
    return StoredJob.from_rows(connection.execute(query.limit(limit)))


def mark_task(connection: Connection, task_id: str, now: float) -> bool:
    """Its notifications are written, in this transaction. False: somebody else has."""
    mine = tasks.c.id == task_id, tasks.c.notified_at == 0
    return bool(connection.execute(update(tasks).where(*mine).values(notified_at=now)).rowcount)


def mark_job(connection: Connection, job_id: str, now: float) -> bool:
    mine = jobs.c.id == job_id, jobs.c.notified_at == 0
    return bool(connection.execute(update(jobs).where(*mine).values(notified_at=now)).rowcount)
