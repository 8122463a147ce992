"""What waits for what, in SQL: rows are there as long as something waits, and say what is still to come.

How it is with what is waited for is read off its tasks each time, and no row counts how much of it has come.
So whoever looks may look again, and two that look at once come to the same. Functions of a connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, or_, select, tuple_, update

from nodepool.domain.not_visible import no_task_or_job
from nodepool.domain.tasks.dependencies import TASK, WHOLE_JOB, Bad, Need, Standing, Unit
from nodepool.domain.tasks.reasons import NO_REASON, Reason
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskKind, TaskState, check_task_transition
from nodepool.stores.sql import held_back_results, job_steps, replicas as replica_store
from nodepool.stores.sql.job_tables import dependencies, job_steps as job_steps_table
from nodepool.stores.sql.ledger import holds as hold_store
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import jobs, tasks
from nodepool.stores.sql.task_rows import DependentTask, TaskHint
from nodepool.stores.sql.typed_rows import columns

_LIVE = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
_BAD = {TaskState.FAILED.value: Bad.FAILED, TaskState.STOPPED.value: Bad.STOPPED}
_GONE = Standing(has_ended=True, bad=Bad.GONE)
_DEPENDENT = (dependencies.c.dependent_id, dependencies.c.dependent_step)


# -- what there is ------------------------------------------------------------------------------------------
def named(
    connection: Connection, owner_id: int, after: Iterable[str], after_any: Iterable[str]
) -> list[Need]:
    """What the owner names, as it is now. Raises NotFoundError for what is no task or job of theirs."""
    return [
        Need(unit := _own(connection, owner_id, needed_id), on_any_end, standing_of(connection, unit))
        for on_any_end, ids in ((False, after), (True, after_any))
        for needed_id in ids
    ]


def _own(connection: Connection, owner_id: int, needed_id: str) -> Unit:
    """A task goes before a job of the same id."""
    mine = tasks.c.id == needed_id, tasks.c.owner_id == owner_id, tasks.c.kind == TaskKind.USER
    accepted = (tasks.c.job_id == "") | select(jobs.c.id).where(
        jobs.c.id == tasks.c.job_id, jobs.c.accepted_at.is_not(None)
    ).exists()
    found = select(tasks.c.id).where(*mine, tasks.c.deleted_at == 0, accepted)
    if connection.execute(found).first() is not None:
        return Unit(needed_id)
    job = select(jobs.c.id).where(
        jobs.c.id == needed_id, jobs.c.owner_id == owner_id, jobs.c.accepted_at.is_not(None)
    )
    if connection.execute(job).first() is None:
        raise no_task_or_job(needed_id)
    return Unit(needed_id, WHOLE_JOB)


def add(connection: Connection, dependent: Unit, needs: Sequence[Need]) -> None:
    connection.execute(
        insert(dependencies),
        [
            {
                "dependent_id": dependent.id,
                "dependent_step": dependent.step,
                "needed_id": need.unit.id,
                "needed_step": need.unit.step,
                "on_any_end": need.on_any_end,
            }
            for need in needs
        ],
    )


def needs_of(connection: Connection, dependent: Unit) -> list[Need]:
    """As it is with them now; none where nothing is known to wait."""
    named = (job_steps_table.c.job_id == dependencies.c.needed_id) & (
        job_steps_table.c.number == dependencies.c.needed_step
    )
    query = select(dependencies, job_steps_table.c.name).outerjoin(job_steps_table, named)
    rows = connection.execute(
        query.where(*_is(dependent)).order_by(dependencies.c.needed_id, dependencies.c.needed_step)
    ).all()
    units = [(Unit(row.needed_id, row.needed_step, row.name or ""), row.on_any_end) for row in rows]
    return [Need(unit, on_any_end, standing_of(connection, unit)) for unit, on_any_end in units]


def dependents_of(connection: Connection, task_id: str) -> list[Unit]:
    """What waits for this task, for the job that it is of, or for its step of that."""
    of_job = select(tasks.c.job_id).where(tasks.c.id == task_id, tasks.c.job_id != "").scalar_subquery()
    its_step = select(job_steps_table.c.number).join(tasks, job_steps.of_step()).where(tasks.c.id == task_id)
    query = select(*_DEPENDENT).where(
        or_(
            (dependencies.c.needed_id == task_id) & (dependencies.c.needed_step == TASK),
            (dependencies.c.needed_id == of_job)
            & or_(dependencies.c.needed_step == WHOLE_JOB, dependencies.c.needed_step.in_(its_step)),
        )
    )
    return _units(connection.execute(query.distinct()).all())


def dependents_of_job(connection: Connection, job_id: str) -> list[Unit]:
    """What waits for this job, or for a task of it."""
    of_job = select(tasks.c.id).where(tasks.c.job_id == job_id, tasks.c.job_id != "")
    query = select(*_DEPENDENT).where(
        or_(dependencies.c.needed_id == job_id, dependencies.c.needed_id.in_(of_job))
    )
    return _units(connection.execute(query.distinct()).all())


def page(connection: Connection, after: Unit | None, limit: int) -> list[Unit]:
    """Some of all that waits, in one order."""
    query = select(*_DEPENDENT).distinct().order_by(*_DEPENDENT).limit(limit)
    if after is not None:
        query = query.where(tuple_(*_DEPENDENT) > (after.id, after.step))
    return _units(connection.execute(query).all())


def _units(rows: Sequence[Any]) -> list[Unit]:
    return [Unit(str(row[0]), int(row[1])) for row in rows]


def _is(dependent: Unit) -> tuple[ColumnElement[bool], ...]:
    return dependencies.c.dependent_id == dependent.id, dependencies.c.dependent_step == dependent.step


# -- how it is with what is waited for -----------------------------------------------------------------------
def standing_of(connection: Connection, unit: Unit) -> Standing:
    """A result that is held back is not given yet: its task is unfinished for all but the pool."""
    if unit.step == TASK:
        query = select(tasks.c.state, tasks.c.held_back_until).where(tasks.c.id == unit.id)
        row = connection.execute(query).one_or_none()
        if row is None:
            return _GONE
        has_ended = row.state not in _LIVE and not row.held_back_until
        return Standing(has_ended, _BAD.get(row.state) if has_ended else None)
    if connection.execute(select(jobs.c.id).where(jobs.c.id == unit.id)).first() is None:
        return _GONE
    has_ended = not (_has(connection, unit, tasks.c.state.in_(_LIVE)) or _holds_back(connection, unit))
    found = (bad for state, bad in _BAD.items() if _has(connection, unit, *_seen_as(state)))
    return Standing(has_ended, next(found, None))


def _seen_as(state: str) -> tuple[ColumnElement[bool], ...]:
    return tasks.c.state == state, held_back_results.NOT_HELD


def _has(connection: Connection, unit: Unit, *conditions: ColumnElement[bool]) -> bool:
    query = select(tasks.c.id).where(*_tasks_of(unit), *conditions).limit(1)
    return connection.execute(query).first() is not None


def _holds_back(connection: Connection, unit: Unit) -> bool:
    held = select(tasks.c.id).where(held_back_results.of_jobs([unit.id]))
    if unit.step != WHOLE_JOB:
        held = held.where(job_steps.in_step(unit.id, unit.step))
    return connection.execute(held.limit(1)).first() is not None


def _tasks_of(unit: Unit) -> tuple[ColumnElement[bool], ...]:
    # The empty id is no job's: said, so that the partial index is taken.
    of_job = tasks.c.job_id != "", tasks.c.job_id == unit.id
    return of_job if unit.step == WHOLE_JOB else (*of_job, job_steps.in_step(unit.id, unit.step))


# -- going on ------------------------------------------------------------------------------------------------
def release(connection: Connection, dependent: Unit, now: float, limit: int) -> tuple[list[TaskHint], bool]:
    """So many tasks of it wait for a node from now on; those, and whether that was all of them."""
    check_task_transition(TaskState.WAITING, TaskState.QUEUED)
    queued = {
        "state": TaskState.QUEUED,
        "queued_at": now,
        "updated_at": now,
        "hinted_at": now,
        **reason_columns(NO_REASON),
    }
    moved = _move(connection, dependent, queued, limit)
    hints: list[TaskHint] = []
    for task in moved:
        ids = [task.id]
        if task.replicas > 1:
            ids = replica_store.add_runs_of(connection, task.id, range(1, task.replicas + 1), now)
        hints += [TaskHint(run_id, task.tier, task.region) for run_id in ids]
    return hints, _done(connection, dependent, len(moved), limit)


def stop(
    connection: Connection, dependent: Unit, reason: Reason, now: float, limit: int
) -> tuple[list[DependentTask], bool]:
    """So many tasks of it never run; those, and whether that was all of them."""
    check_task_transition(TaskState.WAITING, TaskState.STOPPED)
    stopped = {
        "state": TaskState.STOPPED,
        "finished_at": now,
        "updated_at": now,
        **reason_columns(reason),
    }
    moved = _move(connection, dependent, stopped, limit)
    for task in moved:
        if not task.holds_when_placed:
            hold_store.void(connection, task.id, now)
    return moved, _done(connection, dependent, len(moved), limit)


def forget(connection: Connection, dependent: Unit) -> None:
    """It does not wait any more."""
    connection.execute(delete(dependencies).where(*_is(dependent)))


def _done(connection: Connection, dependent: Unit, moved: int, limit: int) -> bool:
    if moved < limit:
        forget(connection, dependent)
    return moved < limit


def _move(
    connection: Connection, dependent: Unit, values: Mapping[str, Any], limit: int
) -> list[DependentTask]:
    """So many of its waiting tasks. Nobody else moves them before the transaction ends."""
    mine = (tasks.c.id == dependent.id,) if dependent.step == TASK else _tasks_of(dependent)
    query = select(*columns(DependentTask, tasks)).where(*mine, tasks.c.state == TaskState.WAITING)
    rows = connection.execute(query.order_by(tasks.c.job_index).limit(limit).with_for_update(of=tasks))
    found = DependentTask.from_rows(rows)
    if found:
        connection.execute(update(tasks).where(tasks.c.id.in_([it.id for it in found])).values(values))
    return found
