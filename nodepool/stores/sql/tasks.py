"""Tasks and their attempts in SQL. Every change is guarded by state and attempt number.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.capabilities import capabilities_of, lacking
from nodepool.domain.errors import (
    AlreadyExistsError,
    NotAbleError,
    NotTrustedError,
    OwnerOnlyError,
    StaleAttemptError,
    StateConflictError,
)
from nodepool.domain.nodes.node import is_owner_only, isolation_of
from nodepool.domain.not_visible import no_task
from nodepool.domain.tasks.dependencies import Unit
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import (
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    AttemptState,
    TaskKind,
    TaskState,
    check_attempt_transition,
    check_task_transition,
)
from nodepool.events.catalogue import TaskEnded, TaskStopAsked
from nodepool.stores.sql import (
    attempts as attempt_records,
    dependencies,
    replicas as replica_store,
    verification_records,
)
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.ledger import holds as hold_store
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import LIVE_ATTEMPT, attempts, holds, jobs, nodes, tasks, users
from nodepool.stores.sql.task_rows import AssignedTask, OwnedTask, ShownRun, TaskHint, WholeTask
from nodepool.stores.sql.typed_rows import columns


def _with_owner(kind: type[OwnedTask]) -> Select[Any]:
    told = {
        "owner": users.c.username,
        "hold_state": holds.c.state,
        "hold_amount": holds.c.amount,
        "hold_posted": holds.c.posted,
    }
    query = select(*columns(kind, tasks, **told)).join(users, users.c.id == tasks.c.owner_id)
    return query.outerjoin(holds, holds.c.task_id == tasks.c.id)


WITH_OWNER = _with_owner(OwnedTask)
# Made once: building a statement costs more than running it.
# Ids of one statement.
_AT_ONCE = 1000
_LIVE_ATTEMPTS: Select[Any] = (
    select(
        *columns(
            LiveAttempt,
            attempts,
            tasks,
            task_credit_score=users.c.credit_score,
            owner_id=nodes.c.owner_id,
        )
    )
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    .join(users, users.c.id == tasks.c.owner_id)
    .where(LIVE_ATTEMPT)
    .order_by(attempts.c.created_at)
)
_LIVE_ATTEMPTS_OF_NODE = _LIVE_ATTEMPTS.where(attempts.c.node_id == bindparam("node_id"))
_BY_ID = _with_owner(WholeTask).where(tasks.c.id == bindparam("task_id"))
_BY_ID_LOCKED = _BY_ID.with_for_update(of=tasks)
_INSERT_TASK = insert(tasks)
# For a node. Of a task with several runs these wait, and not the task itself; one that failed and is tried
# again does when its time has come (see retries).
_MAY_BE_PLACED = tasks.c.stop_requested.is_(False) & (tasks.c.replicas == 1) & (tasks.c.wait_until == 0)
WAITS = (tasks.c.state == TaskState.QUEUED) & _MAY_BE_PLACED
# The same of tasks that are named by their ids. SQLite, which does not know how many wait, would else look
# through all of them by the index of states.
WAITS_BY_ID = (tasks.c.state.concat("") == TaskState.QUEUED) & _MAY_BE_PLACED


# As its index has it, word for word: a database takes a partial index only where it sees that it fits.
_SINGLE = text("tasks.job_id = ''")


def insert_task(connection: Connection, values: Mapping[str, Any]) -> None:
    """Raises AlreadyExistsError when the id is taken."""
    try:
        connection.execute(_INSERT_TASK, values)
    except IntegrityError as error:
        raise AlreadyExistsError(f"there is another task {values['id']!r} already") from error


def find(connection: Connection, task_id: str) -> WholeTask:
    task = find_or_none(connection, task_id)
    if task is None:
        raise no_task(task_id)
    return task


def find_or_none(connection: Connection, task_id: str) -> WholeTask | None:
    return WholeTask.from_row_or_none(connection.execute(_BY_ID, {"task_id": task_id}).one_or_none())


def of_owner(connection: Connection, owner_id: int, limit: int) -> Sequence[OwnedTask]:
    mine = tasks.c.owner_id == owner_id, tasks.c.kind == TaskKind.USER, tasks.c.deleted_at == 0
    query = WITH_OWNER.where(*mine, ~of_jobs_on_their_way(owner_id))
    rows = connection.execute(query.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(limit))
    return OwnedTask.from_rows(rows)


def of_jobs_on_their_way(owner_id: int | None) -> ColumnElement[bool]:
    """The owner's tasks (None: everybody's) that are put in with others, and are there for nobody before all
    are."""
    unaccepted = select(jobs.c.id).where(jobs.c.ended_at.is_(None), jobs.c.accepted_at.is_(None))
    if owner_id is not None:
        # Not found by their owner: of unaccepted ones there are few.
        unaccepted = unaccepted.where(jobs.c.owner_id + 0 == owner_id)
    return tasks.c.job_id.in_(unaccepted)


def runs_shown(connection: Connection, parent_id: str) -> Sequence[ShownRun]:
    """Of a task whose results are compared, its runs by number."""
    query = select(*columns(ShownRun, tasks)).where(tasks.c.parent_id == parent_id).order_by(tasks.c.id)
    return ShownRun.from_rows(connection.execute(query))


def waiting_run(connection: Connection, parent_id: str) -> OwnedTask | None:
    """The first run of the task that waits for a node."""
    query = WITH_OWNER.where(tasks.c.parent_id == parent_id, tasks.c.state == TaskState.QUEUED)
    return OwnedTask.from_row_or_none(connection.execute(query.order_by(tasks.c.id).limit(1)).one_or_none())


def count_unfinished(connection: Connection, owner_id: int) -> int:
    live = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
    mine = tasks.c.owner_id == owner_id, tasks.c.kind == TaskKind.USER
    query = select(func.count()).where(*mine, tasks.c.state.in_(live))
    return connection.execute(query).scalar_one()


def queued(connection: Connection, limit: int, *, hinted_before: float | None = None) -> Sequence[TaskHint]:
    """Waiting tasks that are of no job, oldest first."""
    query = select(*columns(TaskHint, tasks)).where(WAITS, _SINGLE)
    if hinted_before is not None:
        query = query.where(tasks.c.hinted_at < hinted_before)
    rows = connection.execute(query.order_by(tasks.c.created_at, tasks.c.id).limit(limit))
    return TaskHint.from_rows(rows)


def mark_hinted(connection: Connection, task_ids: Sequence[str], now: float) -> None:
    connection.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(hinted_at=now))


def live_attempt(
    connection: Connection, attempt_id: str, node_id: str, owner_id: int, *, lock: bool = False
) -> AssignedTask:
    """A live attempt on that node of that owner, with its task. Raises StaleAttemptError else."""
    task = attempt_records.assigned(connection, attempt_id, node_id, owner_id, lock=lock)
    if task.attempt_state not in LIVE_ATTEMPT_STATES or task.attempt_number != task.number:
        raise StaleAttemptError
    return task


def claim_attempt(
    connection: Connection,
    attempt_id: str,
    node_id: str,
    owner_id: int,
    now: float,
    *,
    able: Collection[str] | None = None,
) -> AssignedTask:
    """assigned -> running, and the task with it. Asked again while it runs, it answers the same.

    `able`: what the program can do that takes it; None where its node's registration says it.

    Raises NotAbleError where the task needs more, OwnerOnlyError where the node has become one of its owner's
    alone since the task was placed, and NotTrustedError where it may not have the task's secrets any more.
    """
    parent = replica_store.lock_parent_of(connection, attempt_id)
    task = live_attempt(connection, attempt_id, node_id, owner_id, lock=True)
    if task.attempt_state == AttemptState.ASSIGNED:
        if task.owner_id != owner_id and is_owner_only(
            task.node_kind,
            isolation_of(task.node_isolation, task.node_docker),
            accepts_strangers=task.node_accepts_strangers,
        ):
            raise OwnerOnlyError(f"node {node_id} takes its owner's tasks only")
        given = capabilities_of(task.node_capabilities) if able is None else able
        if lacks := lacking(task.capabilities, given):
            raise NotAbleError(f"the agent of node {node_id} is too old: it passes no {lacks} on")
        _check_trusted(connection, task, node_id, owner_id)
        check_attempt_transition(AttemptState.ASSIGNED, AttemptState.RUNNING)
        connection.execute(
            update(attempts)
            .where(attempts.c.id == attempt_id, attempts.c.state == AttemptState.ASSIGNED)
            .values(state=AttemptState.RUNNING, started_at=now, bytes_in=task.package_bytes)
        )
        moved = connection.execute(
            update(tasks)
            .where(
                tasks.c.id == task.id,
                tasks.c.attempt_number == task.number,
                tasks.c.state == TaskState.PLACED,
            )
            .values(state=TaskState.RUNNING, started_at=now, updated_at=now)
        )
        if moved.rowcount == 0:
            raise StaleAttemptError
        if parent is not None:
            replica_store.begin(connection, task, node_id, now)
    return task


def _check_trusted(connection: Connection, task: AssignedTask, node_id: str, owner_id: int) -> None:
    if not task.secrets or task.secrets_on_low_trust or task.owner_id == owner_id:
        return
    if verification_records.is_low(connection, node_id):
        raise NotTrustedError(f"node {node_id} is of low trust, and may not have the task's secrets")


def request_stop(connection: Connection, task_id: str, now: float) -> OwnedTask:
    """Mark the task; one that waits, for a node or for others, is STOPPED at once and holds nothing any more.

    Returns it as it was before.
    """
    row = connection.execute(_BY_ID_LOCKED, {"task_id": task_id}).one_or_none()
    task = WholeTask.from_row_or_none(row)
    if task is None:
        raise no_task(task_id)
    if task.state in FINAL_TASK_STATES:
        return task
    values: dict[str, Any] = {"stop_requested": True, "updated_at": now}
    if task.state in (TaskState.QUEUED, TaskState.WAITING):
        check_task_transition(task.state, TaskState.STOPPED)
        values |= {
            "state": TaskState.STOPPED,
            **reason_columns(because(ReasonCode.STOPPED_WAITING)),
            "finished_at": now,
            "wait_until": 0.0,
        }
    moved = connection.execute(
        update(tasks).where(tasks.c.id == task_id, tasks.c.state == task.state).values(values)
    )
    if moved.rowcount == 0:
        raise StateConflictError("the task changed at the same moment; try again")
    if "state" in values:
        hold_store.void(connection, task_id, now)
        if task.state is TaskState.WAITING:
            dependencies.forget(connection, Unit(task_id))
        if task.kind == TaskKind.USER:
            note(connection, _ended_waiting(task))
    elif task.kind == TaskKind.USER and not task.stop_requested:
        note(connection, TaskStopAsked(task=task_id, owner_id=task.owner_id))
    return task


def _ended_waiting(task: OwnedTask) -> TaskEnded:
    return TaskEnded(
        task=task.id,
        owner_id=task.owner_id,
        kind=task.kind,
        tier=task.tier,
        region=task.region,
        state=TaskState.STOPPED,
        number=task.attempt_number if task.replicas == 1 else 0,
        reason=ReasonCode.STOPPED_WAITING,
    )


def ended_among(connection: Connection, attempt_ids: Collection[str]) -> set[str]:
    """Those of these attempts that have ended; one that SQL does not know is not among them."""
    ids = sorted(attempt_ids)
    ended: set[str] = set()
    for start in range(0, len(ids), _AT_ONCE):
        some = attempts.c.id.in_(ids[start : start + _AT_ONCE])
        over = attempts.c.state.not_in([state.value for state in LIVE_ATTEMPT_STATES])
        ended.update(connection.execute(select(attempts.c.id).where(some, over)).scalars())
    return ended


def live_attempts(connection: Connection, node_id: str | None = None) -> Sequence[LiveAttempt]:
    """Live attempts, of one node or of all, oldest first."""
    rows = (
        connection.execute(_LIVE_ATTEMPTS)
        if node_id is None
        else connection.execute(_LIVE_ATTEMPTS_OF_NODE, {"node_id": node_id})
    )
    return LiveAttempt.from_rows(rows)


def note_log(connection: Connection, task_id: str, attempt_number: int, size_bytes: int) -> bool:
    """So much output of its last attempt is kept apart; False where it has not ended by that, or is gone."""
    noted = connection.execute(
        update(tasks)
        .where(
            tasks.c.id == task_id,
            tasks.c.attempt_number == attempt_number,
            tasks.c.finished_at.is_not(None),
            tasks.c.files_removed_at == 0,
        )
        .values(log_bytes=size_bytes, storage_due=True)
    )
    return bool(noted.rowcount)
