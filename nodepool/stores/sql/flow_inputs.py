"""Results that runs of a flow's later steps are given: which there are, and how large.

Those of a step are listed by their indices, so that whoever asks twice is told the same: a step that others
are given has ended. Functions of a connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select

from nodepool.domain.tasks.dependencies import from_lines
from nodepool.stores.sql.held_back_results import NOT_HELD
from nodepool.stores.sql.job_rows import StoredStep
from nodepool.stores.sql.job_tables import job_steps
from nodepool.stores.sql.tables import jobs, tasks
from nodepool.stores.sql.typed_rows import columns

# Of flows that go on from one another.
_LONGEST_CHAIN = 50


@dataclass(frozen=True, slots=True)
class FlowInput:
    """The result of one task. `path` is where a run finds it, below the folder of inputs."""

    path: str
    attempt_id: str
    result_bytes: int


def of_task(connection: Connection, job_id: str, job_index: int) -> list[FlowInput]:
    """Empty where the task is of no flow, or speaks of no results."""
    if not job_id:
        return []
    its_step = job_steps.c.first_index <= job_index, job_steps.c.last_index >= job_index
    return _of_step(connection, job_id, *its_step)


def bytes_of_step(connection: Connection, job_id: str, number: int) -> int:
    """What each run of this step is given."""
    return sum(one.result_bytes for one in _of_step(connection, job_id, job_steps.c.number == number))


def _of_step(connection: Connection, job_id: str, *which: ColumnElement[bool]) -> list[FlowInput]:
    """What is done again counts before what was there: a flow that goes on from another has its steps."""
    own = select(job_steps.c.inputs).where(job_steps.c.job_id == job_id, *which)
    names = from_lines(connection.execute(own).scalar() or "")
    found: dict[str, FlowInput] = {}
    for step in _steps(connection, job_id, names):
        of_step: dict[int, FlowInput] = {}
        for one_job in _chain(connection, job_id):
            for index, one in _results(connection, step, one_job):
                of_step.setdefault(index, one)
        found |= {one.path: one for _, one in sorted(of_step.items())}
    return list(found.values())


def _chain(connection: Connection, job_id: str) -> list[str]:
    """The flow, the one that it does again, and so on."""
    chain: list[str] = []
    while job_id and job_id not in chain and len(chain) < _LONGEST_CHAIN:
        chain.append(job_id)
        query = select(jobs.c.resubmit_of).where(jobs.c.id == job_id)
        job_id = connection.execute(query).scalar() or ""
    return chain


def _steps(connection: Connection, job_id: str, names: list[str]) -> list[StoredStep]:
    if not names:
        return []
    query = select(*columns(StoredStep, job_steps)).where(
        job_steps.c.job_id == job_id, job_steps.c.name.in_(names)
    )
    return StoredStep.from_rows(connection.execute(query.order_by(job_steps.c.number)))


def _results(connection: Connection, step: StoredStep, job_id: str) -> list[tuple[int, FlowInput]]:
    """Results that are there. The empty id is no job's: said, so that the partial index is taken."""
    query = select(tasks.c.job_index, tasks.c.result_attempt, tasks.c.result_bytes).where(
        tasks.c.job_id != "",
        tasks.c.job_id == job_id,
        tasks.c.job_index.between(step.first_index, step.last_index),
        tasks.c.result_attempt != "",
        NOT_HELD,
        tasks.c.files_removed_at == 0,
    )
    return [
        (
            row.job_index,
            FlowInput(
                f"{step.name}/{row.job_index - step.first_index}" if step.is_array else step.name,
                row.result_attempt,
                row.result_bytes,
            ),
        )
        for row in connection.execute(query.order_by(tasks.c.job_index))
    ]
