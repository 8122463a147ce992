"""Attempts that end, in SQL: what is known of them, locked, and the guarded updates of their end.

Functions of a connection: the workflow that calls them owns the transaction. What follows from an end is
decided elsewhere (domain/ends/attempt_end.py); here nothing is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, select, update

from nodepool.domain.ends.effects import ClosedAttempt, HistoryChange, MovedTask, RefusalsChange
from nodepool.domain.ends.ending_attempt import EndingAttempt, EndingNode, EndingTask
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.nodes.fitness import Refusals, images_as_json, images_from_json
from nodepool.domain.nodes.history import MeasuredRun, NodeHistory
from nodepool.domain.not_visible import no_attempt
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.retries import policy_of
from nodepool.domain.tasks.states import AttemptState, TaskKind, TaskState
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.tables import attempts, node_records, nodes, tasks, users
from nodepool.stores.sql.verification_records import tier_of

# How many of the owner's last tasks with the same package are looked at for a node's speed.
_COMPARED_TASKS = 32
_COLUMNS = (
    tasks.c.id.label("task_id"),
    tasks.c.owner_id.label("task_owner_id"),
    tasks.c.kind,
    tasks.c.state.label("task_state"),
    tasks.c.attempt_number,
    tasks.c.attempts_ended,
    tasks.c.stop_requested,
    tasks.c.pinned_node,
    tasks.c.image,
    tasks.c.take_pending,
    tasks.c.secrets,
    tasks.c.retries,
    tasks.c.retry_on,
    tasks.c.backoff_seconds,
    tasks.c.tries_failed,
    tasks.c.max_minutes,
    tasks.c.tier,
    tasks.c.region,
    tasks.c.package_sha256,
    tasks.c.package_bytes,
    tasks.c.started_at.label("task_started_at"),
    attempts.c.id.label("attempt_id"),
    attempts.c.number,
    attempts.c.state.label("attempt_state"),
    attempts.c.started_at,
    attempts.c.claim_cpu_score,
    attempts.c.claim_memory_mb,
    attempts.c.claim_gpu_score,
    attempts.c.claim_gpu_memory_gb,
    nodes.c.id.label("node_id"),
    nodes.c.owner_id,
    nodes.c.active,
    nodes.c.draining,
    nodes.c.cpu_cores,
    nodes.c.cpu_score,
    nodes.c.memory_gb,
    nodes.c.docker_status,
    nodes.c.engine_shown,
    nodes.c.history_good,
    nodes.c.history_bad,
    nodes.c.history_speed_sum,
    nodes.c.history_speed_weight,
    nodes.c.history_at,
    nodes.c.bad_streak,
    nodes.c.refused_in_row,
    nodes.c.refused_user,
    nodes.c.backoff_until,
    nodes.c.absent_images,
    nodes.c.message_bytes,
    nodes.c.message_bytes_at,
    users.c.credit_score,
    node_records.c.watched,
)
# SQLite has one writer anyway, and leaves the locks out. Rows that refer to these may still be added.
_LOCK: Select[Any] = (
    select(*_COLUMNS)
    .join(tasks, tasks.c.id == attempts.c.task_id)
    .join(nodes, nodes.c.id == attempts.c.node_id)
    .join(users, users.c.id == nodes.c.owner_id)
    .outerjoin(node_records, node_records.c.node_id == nodes.c.id)
    .where(
        attempts.c.id == bindparam("attempt_id"),
        attempts.c.node_id == bindparam("node_id"),
        nodes.c.owner_id == bindparam("owner_id"),
    )
    .with_for_update(of=[tasks, attempts, nodes], key_share=True)
)
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
# What it becomes is named by the columns.
_CLOSE = update(attempts).where(
    attempts.c.id == bindparam("the_attempt"), attempts.c.state == bindparam("before")
)


def lock(connection: Connection, attempt_id: str, node_id: str, owner_id: int) -> EndingAttempt:
    """The attempt on that node of that owner, with its task and node. Raises NotFoundError."""
    row = connection.execute(
        _LOCK, {"attempt_id": attempt_id, "node_id": node_id, "owner_id": owner_id}
    ).one_or_none()
    if row is None:
        raise no_attempt(attempt_id, node_id)
    return _from_row(row)


def _from_row(row: Row[Any]) -> EndingAttempt:
    return EndingAttempt(
        id=row.attempt_id,
        number=row.number,
        state=AttemptState(row.attempt_state),
        started_at=row.started_at,
        claim=Claim(row.claim_cpu_score, row.claim_memory_mb, row.claim_gpu_score, row.claim_gpu_memory_gb),
        task=EndingTask(
            id=row.task_id,
            owner_id=row.task_owner_id,
            kind=TaskKind(row.kind),
            state=TaskState(row.task_state),
            attempt_number=row.attempt_number,
            attempts_ended=row.attempts_ended,
            stop_requested=row.stop_requested,
            pinned_node=row.pinned_node,
            max_minutes=row.max_minutes,
            tier=row.tier,
            region=row.region,
            package_sha256=row.package_sha256,
            package_bytes=row.package_bytes,
            started_at=row.task_started_at,
            image=row.image,
            take_pending=row.take_pending,
            has_secrets=bool(row.secrets),
            retry=policy_of(row.retries, row.retry_on, row.backoff_seconds),
            tries_failed=row.tries_failed,
        ),
        node=EndingNode(
            id=row.node_id,
            owner_id=row.owner_id,
            active=row.active,
            draining=row.draining,
            cpu_cores=row.cpu_cores,
            cpu_score=row.cpu_score,
            memory_gb=row.memory_gb,
            history=_history_of(row),
            refusals=_refusals_of(row),
            is_low=tier_of(row) is Tier.LOW,
            is_watched=bool(row.watched),
        ),
    )


def runs_elsewhere(connection: Connection, attempt: EndingAttempt) -> tuple[MeasuredRun, ...]:
    """The last runs of the same package on other nodes."""
    task = attempt.task
    rows = connection.execute(
        _RUNS_ELSEWHERE,
        {"owner_id": task.owner_id, "package": task.package_sha256, "node_id": attempt.node.id},
    )
    return tuple(
        MeasuredRun(
            seconds=run.finished_at - run.started_at,
            claimed_score=run.claim_cpu_score,
            node_score=run.cpu_score,
            node_cores=run.cpu_cores,
        )
        for run in rows
    )


def close(connection: Connection, attempt: ClosedAttempt, now: float) -> None:
    """Raises StaleAttemptError where it is not in the state that was decided on."""
    closed = connection.execute(
        _CLOSE,
        {
            "the_attempt": attempt.id,
            "before": attempt.before,
            "state": attempt.state,
            "finished_at": now,
            "exit_code": attempt.exit_code,
            **reason_columns(attempt.reason),
            "idle": attempt.idle,
            "cpu_seconds": attempt.cpu_seconds,
            "peak_memory_bytes": attempt.peak_memory_bytes,
            "bytes_out": attempt.bytes_out,
            "run_seconds": attempt.run_seconds,
        },
    )
    if closed.rowcount == 0:
        raise StaleAttemptError


def move_task(connection: Connection, task: MovedTask, now: float) -> None:
    """Raises StaleAttemptError where it is not in the state that was decided on."""
    moved = connection.execute(
        update(tasks)
        .where(
            tasks.c.id == task.id,
            tasks.c.attempt_number == task.attempt_number,
            tasks.c.state == task.before,
        )
        .values(_values(task, now))
    )
    if moved.rowcount == 0:
        raise StaleAttemptError


def _values(task: MovedTask, now: float) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": task.state,
        **reason_columns(task.reason),
        "attempts_ended": task.attempts_ended,
        "tries_failed": task.tries_failed,
        "updated_at": now,
        "hinted_at": now,
    }
    if task.state is TaskState.QUEUED:
        values |= {"wait_until": task.wait_until, "queued_at": now, "node_id": "", "started_at": None}
        return values | ({"hold_again": task.hold_again} if task.hold_again else {})
    values |= {"finished_at": now, "exit_code": task.exit_code, "result_digest": task.digest}
    values |= {"log_bytes": task.log_bytes}
    if task.result_bytes is not None:
        values |= {"result_bytes": task.result_bytes, "result_attempt": task.result_attempt}
    return values


def put_history(connection: Connection, node: HistoryChange) -> None:
    """The node is locked (see lock)."""
    history = node.history
    connection.execute(
        update(nodes)
        .where(nodes.c.id == node.node_id)
        .values(
            history_good=history.good,
            history_bad=history.bad,
            history_speed_sum=history.speed_sum,
            history_speed_weight=history.speed_weight,
            history_at=history.at,
            bad_streak=history.bad_streak,
        )
    )


def put_refusals(connection: Connection, node: RefusalsChange) -> None:
    """The node is locked (see lock)."""
    refusals = node.refusals
    connection.execute(
        update(nodes)
        .where(nodes.c.id == node.node_id)
        .values(
            refused_in_row=refusals.in_row,
            refused_user=refusals.last_user,
            backoff_until=refusals.backoff_until,
            absent_images=images_as_json(refusals.absent_images),
            message_bytes=refusals.message_bytes,
            message_bytes_at=refusals.message_bytes_at,
        )
    )


def _refusals_of(row: Row[Any]) -> Refusals:
    return Refusals(
        in_row=row.refused_in_row,
        last_user=row.refused_user,
        backoff_until=row.backoff_until,
        absent_images=images_from_json(row.absent_images),
        message_bytes=row.message_bytes,
        message_bytes_at=row.message_bytes_at,
    )


def _history_of(row: Row[Any]) -> NodeHistory:
    """Of a row with the columns of nodes that hold it."""
    return NodeHistory(
        good=row.history_good,
        bad=row.history_bad,
        speed_sum=row.history_speed_sum,
        speed_weight=row.history_speed_weight,
        at=row.history_at,
        bad_streak=row.bad_streak,
    )
