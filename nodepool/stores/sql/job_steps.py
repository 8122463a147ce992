"""Steps of flows in SQL. Functions of a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from nodepool.stores.sql import held_back_results as held_back
from nodepool.stores.sql.job_rows import StoredStep
from nodepool.stores.sql.job_tables import job_steps
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.typed_rows import columns


def add(connection: Connection, steps: Sequence[StoredStep]) -> None:
    rows = [{column.name: getattr(step, column.name) for column in job_steps.columns} for step in steps]
    connection.execute(insert(job_steps), rows)


def of_job(connection: Connection, job_id: str) -> Sequence[StoredStep]:
    query = select(*columns(StoredStep, job_steps)).where(job_steps.c.job_id == job_id)
    return StoredStep.from_rows(connection.execute(query.order_by(job_steps.c.number)))


def counts(connection: Connection, job_id: str) -> dict[int, dict[str, int]]:
    """How many tasks of each step are in each state, for its owner."""
    number, first, last = job_steps.c.number, job_steps.c.first_index, job_steps.c.last_index
    of_job, held = job_steps.c.job_id == job_id, held_back.tasks_of([job_id])
    every = select(number, tasks.c.state, func.count()).join(tasks, tasks.c.job_index.between(first, last))
    every = every.where(of_job, tasks.c.job_id == job_id, tasks.c.job_id != "")
    also = select(number, held.c.state, func.count()).join(held, held.c.job_index.between(first, last))
    query = held_back.counted(
        every.group_by(number, tasks.c.state), also.where(of_job).group_by(number, held.c.state)
    )
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for step, state, count in connection.execute(query):
        found[step][state] = count
    return found


def of_step() -> ColumnElement[bool]:
    """Of a task and the step that it is of."""
    return (tasks.c.job_id == job_steps.c.job_id) & tasks.c.job_index.between(
        job_steps.c.first_index, job_steps.c.last_index
    )


def in_step(job_id: str, number: int) -> ColumnElement[bool]:
    """Of a task: it is of this step."""
    bounds: list[Any] = [
        select(column).where(job_steps.c.job_id == job_id, job_steps.c.number == number).scalar_subquery()
        for column in (job_steps.c.first_index, job_steps.c.last_index)
    ]
    return tasks.c.job_index.between(*bounds)


def remove(connection: Connection, job_ids: Collection[str]) -> None:
    connection.execute(delete(job_steps).where(job_steps.c.job_id.in_(list(job_ids))))
