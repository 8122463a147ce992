"""Attempts in SQL with all that belongs to them: how they went, and what that says of their nodes.

Functions of a connection; they only read. How attempts end is in ending_attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, case, func, select

from nodepool.domain.not_visible import no_attempt
from nodepool.domain.tasks.states import JobKind
from nodepool.stores.sql import job_steps
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.job_tables import job_steps as job_steps_table
from nodepool.stores.sql.tables import attempts, jobs, nodes, tasks
from nodepool.stores.sql.task_rows import AssignedTask, TaskOfAttempt
from nodepool.stores.sql.typed_rows import columns

_MAX_ATTEMPTS_SHOWN = 20


_ASSIGNED: Select[Any] = (
    select(
        *columns(
            AssignedTask,
            tasks,
            flow_index=tasks.c.job_index,
            job_index=tasks.c.job_index - func.coalesce(job_steps_table.c.first_index, 0),
            job_tasks=case(
                (
                    jobs.c.kind == JobKind.FLOW,
                    case((job_steps_table.c.is_array, job_steps_table.c.array_count)),
                ),
                (jobs.c.array_count > 0, jobs.c.array_count),
                else_=jobs.c.count,
            ),
            number=attempts.c.number,
            attempt_id=attempts.c.id,
            attempt_state=attempts.c.state,
            attempt_node=attempts.c.node_id,
            node_kind=nodes.c.kind,
            node_docker=nodes.c.docker_status,
            node_isolation=nodes.c.isolation,
            node_accepts_strangers=nodes.c.accepts_strangers,
            node_capabilities=nodes.c.capabilities,
        )
    )
    .join(attempts, attempts.c.task_id == tasks.c.id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    .outerjoin(jobs, jobs.c.id == tasks.c.job_id)
    .outerjoin(job_steps_table, job_steps.of_step())
    .where(
        attempts.c.id == bindparam("attempt_id"),
        attempts.c.node_id == bindparam("node_id"),
        nodes.c.owner_id == bindparam("owner_id"),
    )
)
_ASSIGNED_LOCKED = _ASSIGNED.with_for_update(of=[tasks, attempts], key_share=True)
_ID_OF = select(attempts.c.id).where(
    attempts.c.task_id == bindparam("task_id"), attempts.c.number == bindparam("number")
)
_TASK_OF: Select[Any] = (
    select(*columns(TaskOfAttempt, tasks, attempts, attempt_created_at=attempts.c.created_at))
    .join(attempts, attempts.c.task_id == tasks.c.id)
    .where(attempts.c.id == bindparam("attempt_id"))
)
_OF_TASK: Select[Any] = (
    select(*columns(PastAttempt, attempts))
    .where(attempts.c.task_id == bindparam("task_id"))
    .order_by(attempts.c.number.desc())
    .limit(_MAX_ATTEMPTS_SHOWN)
)


def id_of(connection: Connection, task_id: str, number: int) -> str:
    """The id of this attempt of the task; empty when there is none."""
    return str(connection.execute(_ID_OF, {"task_id": task_id, "number": number}).scalar() or "")


def task_of(connection: Connection, attempt_id: str) -> TaskOfAttempt | None:
    """None when there is no such attempt."""
    row = connection.execute(_TASK_OF, {"attempt_id": attempt_id}).one_or_none()
    return TaskOfAttempt.from_row_or_none(row)


def assigned(
    connection: Connection, attempt_id: str, node_id: str, owner_id: int, *, lock: bool = False
) -> AssignedTask:
    """The task of an attempt on that node of that owner, in whatever state. Raises NotFoundError."""
    query = _ASSIGNED_LOCKED if lock else _ASSIGNED
    values = {"attempt_id": attempt_id, "node_id": node_id, "owner_id": owner_id}
    task = AssignedTask.from_row_or_none(connection.execute(query, values).one_or_none())
    if task is None:
        raise no_attempt(attempt_id, node_id)
    return task


def of_task(connection: Connection, task_id: str) -> Sequence[PastAttempt]:
    """The task's last attempts, oldest first."""
    return PastAttempt.from_rows(connection.execute(_OF_TASK, {"task_id": task_id}))[::-1]
