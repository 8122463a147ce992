"""Attempts in SQL with all that belongs to them: how they went, and what that says of their nodes.

Functions of a connection; what changes something is called in the transaction that ends the attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from nodepool.domain.nodes import history
from nodepool.domain.nodes.claimed_resources import PROVEN_AFTER
from nodepool.domain.nodes.history import AttemptRecord, HistoryRules, MeasuredRun, NodeHistory
from nodepool.domain.not_visible import no_attempt
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.tables import attempts, nodes, tasks
from nodepool.stores.sql.task_rows import AssignedTask, TaskOfAttempt
from nodepool.stores.sql.typed_rows import columns

# How many of the owner's last tasks with the same package are looked at for a node's speed.
_COMPARED_TASKS = 32
_MAX_ATTEMPTS_SHOWN = 20
_BYTES_PER_GIB = 1 << 30
_BYTES_PER_MIB = 1 << 20


class Lock(Enum):
    """Whom nobody else may change before the transaction ends."""

    NONE = auto()
    ATTEMPT = auto()  # and its task
    ATTEMPT_AND_NODE = auto()


# The last ones first and then those that fit, so that the number of rows read is bounded.
_LAST_OF_PACKAGE = (
    select(tasks.c.id, tasks.c.attempt_number, tasks.c.state, tasks.c.pinned_node)
    .where(
        tasks.c.owner_id == bindparam("owner_id"),
        tasks.c.package_sha256 == bindparam("package"),
        tasks.c.finished_at > 0,
    )
    .order_by(tasks.c.finished_at.desc())
    .limit(_COMPARED_TASKS)
    .subquery()
)
_RUNS_ELSEWHERE = (
    select(
        attempts.c.started_at,
        attempts.c.finished_at,
        attempts.c.claim_cpu_score,
        nodes.c.cpu_score,
        nodes.c.cpu_cores,
    )
    .join(
        _LAST_OF_PACKAGE,
        (attempts.c.task_id == _LAST_OF_PACKAGE.c.id)
        & (attempts.c.number == _LAST_OF_PACKAGE.c.attempt_number),
    )
    .join(nodes, nodes.c.id == attempts.c.node_id)
    .where(
        _LAST_OF_PACKAGE.c.state == TaskState.SUCCEEDED,
        _LAST_OF_PACKAGE.c.pinned_node == "",
        attempts.c.node_id != bindparam("node_id"),
    )
)
_ATTEMPT = (
    select(
        tasks,
        attempts.c.id.label("attempt_id"),
        attempts.c.number,
        attempts.c.state.label("attempt_state"),
        attempts.c.node_id.label("attempt_node"),
        attempts.c.started_at.label("attempt_started_at"),
        attempts.c.claim_cpu_score,
        attempts.c.claim_memory_mb,
        attempts.c.claim_gpu_score,
        attempts.c.claim_gpu_memory_gb,
        nodes.c.active.label("node_active"),
        nodes.c.draining.label("node_draining"),
        nodes.c.cpu_cores.label("node_cores"),
        nodes.c.cpu_score.label("node_score"),
        nodes.c.memory_gb.label("node_memory_gb"),
        nodes.c.kind.label("node_kind"),
        nodes.c.docker_status.label("node_docker"),
        nodes.c.isolation.label("node_isolation"),
        nodes.c.accepts_strangers.label("node_accepts_strangers"),
        nodes.c.history_good,
        nodes.c.history_bad,
        nodes.c.history_speed_sum,
        nodes.c.history_speed_weight,
        nodes.c.history_at,
        nodes.c.bad_streak,
    )
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    .where(
        attempts.c.id == bindparam("attempt_id"),
        attempts.c.node_id == bindparam("node_id"),
        nodes.c.owner_id == bindparam("owner_id"),
    )
)
# SQLite has one writer anyway, and leaves the locks out. Rows that refer to these may still be added.
_ATTEMPT_LOCKED = {
    Lock.NONE: _ATTEMPT,
    Lock.ATTEMPT: _ATTEMPT.with_for_update(of=[tasks, attempts], key_share=True),
    Lock.ATTEMPT_AND_NODE: _ATTEMPT.with_for_update(of=[tasks, attempts, nodes], key_share=True),
}
_ASSIGNED: Select[Any] = (
    select(
        *columns(
            AssignedTask,
            tasks,
            number=attempts.c.number,
            attempt_id=attempts.c.id,
            attempt_state=attempts.c.state,
            attempt_node=attempts.c.node_id,
            node_kind=nodes.c.kind,
            node_docker=nodes.c.docker_status,
            node_isolation=nodes.c.isolation,
            node_accepts_strangers=nodes.c.accepts_strangers,
        )
    )
    .join(attempts, attempts.c.task_id == tasks.c.id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
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
    select(*columns(TaskOfAttempt, tasks, attempts))
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


def find(
    connection: Connection, attempt_id: str, node_id: str, owner_id: int, *, lock: Lock = Lock.NONE
) -> Row[Any]:
    """An attempt on that node of that owner, with its task. Raises NotFoundError."""
    row = connection.execute(
        _ATTEMPT_LOCKED[lock], {"attempt_id": attempt_id, "node_id": node_id, "owner_id": owner_id}
    ).one_or_none()
    if row is None:
        raise no_attempt(attempt_id, node_id)
    return row


def history_of(row: Row[Any]) -> NodeHistory:
    """Of a row with the columns of nodes that hold it."""
    return NodeHistory(
        good=row.history_good,
        bad=row.history_bad,
        speed_sum=row.history_speed_sum,
        speed_weight=row.history_speed_weight,
        at=row.history_at,
        bad_streak=row.bad_streak,
    )


def measured(
    row: Row[Any], *, cpu_seconds: float, peak_memory_bytes: int, bytes_out: int, now: float
) -> dict[str, Any]:
    """The attempt's columns of use. The numbers are its node's word, and kept within what can be."""
    wall_seconds = _run_seconds(row, now)
    most_memory = max(row.node_memory_gb * _BYTES_PER_GIB, row.claim_memory_mb * _BYTES_PER_MIB)
    return {
        "cpu_seconds": history.believable(cpu_seconds, wall_seconds * max(1, row.node_cores)),
        "peak_memory_bytes": int(history.believable(peak_memory_bytes, most_memory)),
        "bytes_out": max(0, bytes_out),
    }


def add_to_history(
    connection: Connection,
    row: Row[Any],
    outcome: Outcome,
    *,
    blameless: bool,
    now: float,
    rules: HistoryRules,
) -> bool:
    """Count the end for its node. True when that changes what ranking or reservations see of the node.

    `row` is find's, with the node locked.
    """
    before = history_of(row)
    counts = not blameless and not row.pinned_node
    ending = AttemptRecord(
        outcome=outcome,
        counts=counts,
        handed_back=history.is_handed_back(outcome, draining=row.node_draining, active=row.node_active),
        bad_before=row.attempts_ended,
        speed=_speed(connection, row, now) if counts and outcome is Outcome.SUCCEEDED else None,
    )
    after = history.after_end(before, ending, now, rules)
    if after == before:
        return False
    connection.execute(
        update(nodes)
        .where(nodes.c.id == row.attempt_node)
        .values(
            history_good=after.good,
            history_bad=after.bad,
            history_speed_sum=after.speed_sum,
            history_speed_weight=after.speed_weight,
            history_at=after.at,
            bad_streak=after.bad_streak,
        )
    )
    # A little of its good ends decays; who is near the bound may be looked at once more than needed.
    proven = (before.good >= PROVEN_AFTER) != (after.good >= PROVEN_AFTER)
    return proven or (after.quality, after.on_probation(rules)) != (
        before.as_of(now, rules).quality,
        before.on_probation(rules),
    )


def _run_seconds(row: Row[Any], now: float) -> float:
    return max(0.0, now - row.attempt_started_at) if row.attempt_started_at is not None else 0.0


def _speed(connection: Connection, row: Row[Any], now: float) -> float | None:
    here = MeasuredRun(
        seconds=_run_seconds(row, now),
        claimed_score=row.claim_cpu_score,
        node_score=row.node_score,
        node_cores=row.node_cores,
    )
    if here.seconds < history.LEAST_COMPARED_SECONDS:
        return None
    rows = connection.execute(
        _RUNS_ELSEWHERE,
        {"owner_id": row.owner_id, "package": row.package_sha256, "node_id": row.attempt_node},
    )
    elsewhere = [
        MeasuredRun(
            seconds=run.finished_at - run.started_at,
            claimed_score=run.claim_cpu_score,
            node_score=run.cpu_score,
            node_cores=run.cpu_cores,
        )
        for run in rows
    ]
    return history.speed_of(here, elsewhere)


def of_task(connection: Connection, task_id: str) -> Sequence[PastAttempt]:
    """The task's last attempts, oldest first."""
    return PastAttempt.from_rows(connection.execute(_OF_TASK, {"task_id": task_id}))[::-1]
