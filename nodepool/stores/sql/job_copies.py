"""Tasks of a job that are done again: which of them there are, and what each was given.

Functions of a connection; they only read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, select

from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.held_back_results import NOT_HELD
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.task_rows import WholeTask
from nodepool.stores.sql.tasks import find_or_none


def ended_indices(connection: Connection, job_id: str, states: Collection[TaskState]) -> list[int]:
    """Of its tasks in these states, in order; not of those whose owner has not been told how they ended."""
    query = select(tasks.c.job_index).where(
        _of(job_id), tasks.c.state.in_(list(states)), NOT_HELD, tasks.c.deleted_at == 0
    )
    return list(connection.execute(query.order_by(tasks.c.job_index)).scalars())


def task_at(connection: Connection, job_id: str, index: int) -> WholeTask | None:
    query = select(tasks.c.id).where(_of(job_id), tasks.c.job_index == index)
    task_id = connection.execute(query).scalar()
    return find_or_none(connection, task_id) if task_id else None


def any_task(connection: Connection, job_id: str) -> WholeTask | None:
    """One of its tasks: what they have in common is the same."""
    task_id = connection.execute(select(tasks.c.id).where(_of(job_id)).limit(1)).scalar()
    return find_or_none(connection, task_id) if task_id else None


def piece(connection: Connection, job_id: str, indices: Sequence[int]) -> str | None:
    """As `arrays.expand` makes one: [index, arguments, environment] of each. None where one is not there."""
    query = (
        select(tasks.c.job_index, tasks.c.arguments, tasks.c.environment)
        .where(_of(job_id), tasks.c.job_index.in_(list(indices)), tasks.c.deleted_at == 0)
        .order_by(tasks.c.job_index)
    )
    rows = [list(row) for row in connection.execute(query)]
    if len(rows) != len(indices):
        return None
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _of(job_id: str) -> ColumnElement[bool]:
    # The empty id is no job's: said, so that the partial index is taken.
    return (tasks.c.job_id != "") & (tasks.c.job_id == job_id)
