"""Tasks of a flow that are done again: how each ended, and what it was given. Functions of a connection; they
only read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from nodepool.domain.errors import StateConflictError
from nodepool.domain.tasks.reasons import STOPPED_FOR_OTHERS
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.stores.sql import job_copies
from nodepool.stores.sql.held_back_results import NOT_HELD
from nodepool.stores.sql.job_copies import task_at
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.typed_rows import FromRow, columns

__all__ = ["EndedFlowTask", "ended_tasks", "piece", "task_at"]


@dataclass(frozen=True, slots=True)
class EndedFlowTask(FromRow):
    job_index: int
    state: TaskState
    reason_code: str
    files_removed_at: float

    @property
    def was_stopped_for_others(self) -> bool:
        return self.state is TaskState.STOPPED and self.reason_code in STOPPED_FOR_OTHERS

    @property
    def is_removed(self) -> bool:
        return self.files_removed_at > 0


def ended_tasks(connection: Connection, job_id: str) -> Sequence[EndedFlowTask]:
    """By their indices; not those whose owner has not been told how they ended."""
    final = [state.value for state in FINAL_TASK_STATES]
    query = select(*columns(EndedFlowTask, tasks)).where(
        tasks.c.job_id != "",
        tasks.c.job_id == job_id,
        tasks.c.state.in_(final),
        NOT_HELD,
        tasks.c.deleted_at == 0,
    )
    return EndedFlowTask.from_rows(connection.execute(query.order_by(tasks.c.job_index)))


def piece(connection: Connection, job_id: str, indices: Sequence[int], first_index: int) -> str:
    """As `arrays.expand` makes one, with indices of their own step. Raises StateConflictError."""
    found = job_copies.piece(connection, job_id, indices)
    if found is None:
        raise StateConflictError(f"tasks of flow {job_id} were removed at the same moment; ask again")
    rows = [[index - first_index, *given] for index, *given in json.loads(found)]
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
