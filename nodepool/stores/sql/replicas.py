"""Tasks that are runs of another task: their rows, and whose nodes they may be on.

A task with several runs is never placed itself; its runs are, each a task of its own with it as its parent.
Functions of a connection. Whoever changes a run locks its parent first, so that two ends of runs of one
task are one after the other, and nobody waits for another who waits for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, insert, or_, select, update

from nodepool.domain import ids
from nodepool.domain.ends.effects import ParentEnd, ReplacedResult
from nodepool.domain.ends.task_runs import ParentTask, TaskRun
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.reasons import Reason, stored
from nodepool.domain.tasks.states import (
    FINAL_TASK_STATES,
    AttemptState,
    RunVerdict,
    TaskKind,
    TaskState,
    check_task_transition,
)
from nodepool.stores.sql.owner_only_nodes import is_understood, takes_strangers
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import UNDECIDED, attempts, node_records, nodes, owner_records, tasks, users
from nodepool.stores.sql.task_rows import AssignedTask
from nodepool.stores.sql.verification_records import is_trusted

_FINAL = [state.value for state in FINAL_TASK_STATES]
_LIVE = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
_PARENT_COLUMNS = (
    tasks.c.id, tasks.c.owner_id, tasks.c.state, tasks.c.replicas, tasks.c.stop_requested,
    tasks.c.max_minutes, tasks.c.price_per_minute, tasks.c.tier, tasks.c.region, tasks.c.reason,
    tasks.c.reason_code, tasks.c.reason_parameters,
    tasks.c.result_digest,
    tasks.c.held_back_until,
)  # fmt: skip
_FIND: Select[Any] = select(*_PARENT_COLUMNS).where(tasks.c.id == bindparam("task_id"))
_LOCK = _FIND.with_for_update(of=tasks, key_share=True)
_PARENT = (
    select(tasks.c.parent_id)
    .join(attempts, attempts.c.task_id == tasks.c.id)
    .where(attempts.c.id == bindparam("attempt_id"))
)
_INSERT = insert(tasks)
# What a run has of its parent.
COPIED_TO_RUNS = (
    "owner_id", "cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb", "gpu_name", "region", "tier",
    "priority", "min_trust", "location_mode", "compare_outputs", "price_per_minute", "image", "network",
    "max_minutes", "package_sha256", "package_bytes", "created_at", "take_pending", "exclusive", "fresh",
    "arguments", "environment", "secrets", "secrets_on_low_trust", "capabilities", "memory_mb",
    "retries", "retry_on", "backoff_seconds",
)  # fmt: skip
_OF_PARENT_QUERY = select(*(tasks.c[name] for name in ("id", "replicas", *COPIED_TO_RUNS))).where(
    tasks.c.id == bindparam("task_id")
)
_PUT_VERDICT = update(tasks).where(tasks.c.id == bindparam("run")).values(verification=bindparam("verdict"))
# An attempt on somebody's node that may have seen its end. One that was lost or refused says nothing.
_TAKEN = [
    state.value
    for state in (AttemptState.ASSIGNED, AttemptState.RUNNING, AttemptState.FINISHED, AttemptState.STOPPED)
]
_RUNS: Select[Any] = (
    select(
        tasks.c.id,
        tasks.c.state,
        tasks.c.reason,
        tasks.c.reason_code,
        tasks.c.reason_parameters,
        tasks.c.verification,
        tasks.c.stop_requested,
        tasks.c.node_id,
        tasks.c.exit_code,
        tasks.c.result_digest,
        tasks.c.result_attempt,
        tasks.c.result_bytes,
        attempts.c.id.label("attempt_id"),
        attempts.c.state.label("attempt_state"),
        attempts.c.started_at.label("attempt_started_at"),
        attempts.c.run_seconds.label("attempt_run_seconds"),
        attempts.c.finished_at.label("attempt_finished_at"),
        attempts.c.idle.label("attempt_idle"),
        nodes.c.owner_id.label("provider_id"),
        nodes.c.docker_status,
        nodes.c.engine_shown,
        users.c.credit_score,
        node_records.c.verified,
        owner_records.c.strikes,
    )
    .outerjoin(attempts, (attempts.c.task_id == tasks.c.id) & (attempts.c.number == tasks.c.attempt_number))
    .outerjoin(nodes, nodes.c.id == attempts.c.node_id)
    .outerjoin(users, users.c.id == nodes.c.owner_id)
    .outerjoin(node_records, node_records.c.node_id == nodes.c.id)
    .outerjoin(owner_records, owner_records.c.user_id == nodes.c.owner_id)
)
_CHILDREN = _RUNS.where(tasks.c.parent_id == bindparam("task_id"))
_UNDECIDED = (
    select(tasks.c.id)
    .where(UNDECIDED, tasks.c.id > bindparam("after"))
    .order_by(tasks.c.id)
    .limit(bindparam("limit"))
)


def lock_parent_of(connection: Connection, attempt_id: str) -> ParentTask | None:
    """The parent of the attempt's task, which nobody else may change now; None for one that has none."""
    parent = connection.execute(_PARENT, {"attempt_id": attempt_id}).scalar()
    return lock(connection, parent) if parent else None


def lock(connection: Connection, task_id: str) -> ParentTask | None:
    """The task, which nobody else may change now."""
    return _parent(connection, _LOCK, task_id)


def find(connection: Connection, task_id: str) -> ParentTask | None:
    return _parent(connection, _FIND, task_id)


def _parent(connection: Connection, query: Select[Any], task_id: str) -> ParentTask | None:
    row = connection.execute(query, {"task_id": task_id}).one_or_none()
    if row is None:
        return None
    return ParentTask(
        id=row.id,
        owner_id=row.owner_id,
        state=TaskState(row.state),
        replicas=row.replicas,
        stop_requested=row.stop_requested,
        max_minutes=row.max_minutes,
        price_per_minute=row.price_per_minute,
        tier=row.tier,
        region=row.region,
        reason=stored(row.reason_code, row.reason_parameters, row.reason),
        result_digest=row.result_digest,
        is_held_back=row.held_back_until > 0,
    )


def add_runs(
    connection: Connection, parent: Mapping[str, Any], numbers: Iterable[int], now: float
) -> list[str]:
    """Runs with these numbers that wait for nodes; their ids. `parent`: columns of a task."""
    rows = [
        {
            **{name: parent[name] for name in COPIED_TO_RUNS},
            "id": ids.run_id(parent["id"], number),
            "parent_id": parent["id"],
            "kind": TaskKind.REPLICA if parent["replicas"] > 1 else TaskKind.AUDIT,
            "state": TaskState.QUEUED,
            "updated_at": now,
            "hinted_at": now,
            "queued_at": now,
        }
        for number in numbers
    ]
    connection.execute(_INSERT, rows)
    return [str(row["id"]) for row in rows]


def add_runs_of(connection: Connection, parent_id: str, numbers: Iterable[int], now: float) -> list[str]:
    """The same of a task that is there; `parent_id` is locked, or nobody else adds runs of it now."""
    row = connection.execute(_OF_PARENT_QUERY, {"task_id": parent_id}).one()
    return add_runs(connection, dict(row._mapping), numbers, now)


def runs_of(connection: Connection, parent_id: str) -> tuple[TaskRun, ...]:
    """Its runs by number, each with its current attempt, and whose node that is on (`provider_id`)."""
    rows = connection.execute(_CHILDREN, {"task_id": parent_id}).all()
    return tuple(sorted(map(_run, rows), key=lambda run: ids.run_number(run.id)))


def _run(row: Row[Any]) -> TaskRun:
    return TaskRun(
        id=row.id,
        state=TaskState(row.state),
        reason=stored(row.reason_code, row.reason_parameters, row.reason),
        verification=row.verification,
        stop_requested=row.stop_requested,
        node_id=row.node_id,
        exit_code=row.exit_code,
        result_digest=row.result_digest,
        result_attempt=row.result_attempt,
        result_bytes=row.result_bytes,
        attempt_id=row.attempt_id or "",
        attempt_state=AttemptState(row.attempt_state) if row.attempt_state else None,
        attempt_started_at=row.attempt_started_at,
        attempt_run_seconds=row.attempt_run_seconds,
        attempt_finished_at=row.attempt_finished_at,
        attempt_idle=bool(row.attempt_idle),
        provider_id=row.provider_id,
        trusted=row.provider_id is not None and is_trusted(row),
    )


def begin(connection: Connection, run: AssignedTask, node_id: str, now: float) -> None:
    """A run of a task was claimed: so the task runs. The first one is shown to whoever watches the task.

    A task with several runs has no attempts of its own: its `attempt_number` is the number of that run.
    """
    check_task_transition(TaskState.QUEUED, TaskState.PLACED)
    check_task_transition(TaskState.PLACED, TaskState.RUNNING)
    connection.execute(
        update(tasks)
        .where(tasks.c.id == run.parent_id, tasks.c.state == TaskState.QUEUED)
        .values(
            state=TaskState.RUNNING,
            started_at=now,
            updated_at=now,
            node_id=node_id,
            attempt_number=ids.run_number(run.id),
        )
    )


def drop_open(connection: Connection, parent_id: str, reason: Reason, now: float) -> None:
    """End the runs that wait, and ask those on a node to end."""
    check_task_transition(TaskState.QUEUED, TaskState.STOPPED)
    mine = tasks.c.parent_id == parent_id
    connection.execute(
        update(tasks)
        .where(mine, tasks.c.state == TaskState.QUEUED)
        .values(
            state=TaskState.STOPPED,
            stop_requested=True,
            finished_at=now,
            updated_at=now,
            **reason_columns(reason),
        )
    )
    connection.execute(
        update(tasks).where(mine, tasks.c.state.not_in(_FINAL)).values(stop_requested=True, updated_at=now)
    )


def end_parent(connection: Connection, task_id: str, ended: ParentEnd, now: float) -> None:
    """Raises StaleAttemptError where the task is not in the state that was decided on."""
    values: dict[str, Any] = {
        "state": ended.state,
        **reason_columns(ended.reason),
        "finished_at": now,
        "updated_at": now,
    }
    if ended.verification is not None:
        values["verification"] = ended.verification
    if ended.digest is not None:
        values["result_digest"] = ended.digest
    if ended.result is not None:
        values |= {
            "exit_code": ended.result.exit_code,
            "result_bytes": ended.result.result_bytes,
            "result_attempt": ended.result.result_attempt,
            "node_id": ended.result.node_id,
        }
    moved = connection.execute(
        update(tasks).where(tasks.c.id == task_id, tasks.c.state == ended.before).values(values)
    )
    if moved.rowcount == 0:
        raise StaleAttemptError


def replace_result(connection: Connection, task_id: str, replaced: ReplacedResult, now: float) -> None:
    """Of a task that has ended. Another state only of one whose owner has not seen how it ended."""
    result = replaced.result
    query = update(tasks).where(tasks.c.id == task_id, tasks.c.state.in_(_FINAL))
    if replaced.state is not None:
        query = query.where(tasks.c.held_back_until > 0).values(state=replaced.state)
    connection.execute(
        query.values(
            result_attempt=result.result_attempt,
            result_bytes=result.result_bytes,
            result_digest=result.digest,
            exit_code=result.exit_code,
            node_id=result.node_id,
            log_bytes=0,  # that of the false one went with it
            storage_due=True,
            updated_at=now,
            **reason_columns(replaced.reason),
        )
    )


def put_verdict(connection: Connection, run_id: str, verdict: RunVerdict) -> None:
    connection.execute(_PUT_VERDICT, {"run": run_id, "verdict": verdict})


def keep_digest(connection: Connection, task_id: str, digest: str) -> None:
    """Of a result that was kept without one."""
    query = update(tasks).where(tasks.c.id == task_id, tasks.c.result_digest == "")
    connection.execute(query.values(result_digest=digest))


def forget_results(connection: Connection, run_ids: Sequence[str]) -> None:
    """What these runs returned is not there any more."""
    nothing = {"result_attempt": "", "result_bytes": 0, "log_bytes": 0}
    connection.execute(update(tasks).where(tasks.c.id.in_(run_ids)).values(nothing))


def not_owners(connection: Connection, task_ids: Collection[str]) -> dict[str, frozenset[int]]:
    """For each of these that is a run of another task: owners whose nodes may not have it.

    Those with another run of the task, and who submitted it.
    """
    parents = {task_id: parent for task_id in task_ids if (parent := ids.parent_of(task_id))}
    if not parents:
        return {}
    owners = _owners(connection, set(parents.values()))
    return {
        task_id: frozenset(owner for run, owner in owners.get(parent, ()) if run != task_id)
        for task_id, parent in parents.items()
    }


def extra_runs(connection: Connection, run_ids: Collection[str]) -> frozenset[str]:
    """Those that were added because the others did not agree."""
    parents = sorted({ids.parent_of(run) for run in run_ids})
    query = select(tasks.c.id, tasks.c.replicas).where(tasks.c.id.in_(parents))
    # An audited task's own run is the first of two.
    first = {row.id: row.replicas if row.replicas > 1 else 1 for row in connection.execute(query)}
    return frozenset(run for run in run_ids if ids.run_number(run) > first.get(ids.parent_of(run), 1))


def _owners(connection: Connection, parents: set[str]) -> dict[str, list[tuple[str, int]]]:
    """For each parent: (task, owner) of the task itself and of it and its runs on nodes."""
    found: dict[str, list[tuple[str, int]]] = {parent: [] for parent in parents}
    wanted = sorted(parents)
    for row in connection.execute(select(tasks.c.id, tasks.c.owner_id).where(tasks.c.id.in_(wanted))):
        found[row.id].append((row.id, row.owner_id))
    family = or_(tasks.c.id.in_(wanted), tasks.c.parent_id.in_(wanted))
    query = (
        select(tasks.c.id, nodes.c.owner_id)
        .join(attempts, attempts.c.task_id == tasks.c.id)
        .join(nodes, nodes.c.id == attempts.c.node_id)
        .where(family, attempts.c.state.in_(_TAKEN))
    )
    for row in connection.execute(query):
        found[ids.shown_task(row.id)].append((row.id, row.owner_id))
    return found


@dataclass(slots=True)
class Apart:
    """The judge of a transaction that places: no two runs of one task with one owner."""

    owners: dict[str, list[tuple[str, int]]]
    owner_of_node: dict[str, int]

    @classmethod
    def of(cls, connection: Connection, placements: Collection[tuple[str, str]]) -> Apart:
        """For these (task, node); the parents of the tasks are locked."""
        parents = {parent for task_id, _ in placements if (parent := ids.parent_of(task_id))}
        if not parents:
            return cls({}, {})
        for parent in sorted(parents):
            lock(connection, parent)
        wanted = {node_id for task_id, node_id in placements if ids.parent_of(task_id)}
        query = select(nodes.c.id, nodes.c.owner_id).where(nodes.c.id.in_(sorted(wanted)))
        return cls(_owners(connection, parents), {row.id: row.owner_id for row in connection.execute(query)})

    def allows(self, task_id: str, node_id: str) -> bool:
        """Counts what it allows."""
        parent = ids.parent_of(task_id)
        if not parent:
            return True
        owner = self.owner_of_node.get(node_id)
        if owner is None or any(owner == other for run, other in self.owners[parent] if run != task_id):
            return False
        self.owners[parent].append((task_id, owner))
        return True


def somebody_else(connection: Connection, taken: Collection[int], *, allow_pushed: bool) -> bool:
    """Whether another owner than these has a node that takes work."""
    query = select(nodes.c.id).where(
        nodes.c.active,
        nodes.c.draining.is_(False),
        nodes.c.owner_id.not_in(sorted(taken)),
        takes_strangers(),
        is_understood(),
    )
    if not allow_pushed:
        query = query.where(nodes.c.kind == NodeKind.AGENT)
    return connection.execute(query.limit(1)).first() is not None


def undecided(connection: Connection, limit: int, *, after: str = "") -> list[str]:
    """Tasks with several runs that have not ended, a page of them in the order of their ids."""
    return [str(it) for it in connection.execute(_UNDECIDED, {"after": after, "limit": limit}).scalars()]
