"""Tasks, attempts and nodes as the protocol shows them, and how long a page of a list is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.told_messages import notification
from nodepool import wire
from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.money.ledger import HoldState
from nodepool.domain.nodes.generation import NO_WORK_WORDS
from nodepool.domain.nodes.history import HistoryRules
from nodepool.domain.nodes.node import NodeStatus, NodeView, is_owner_only, isolation_of
from nodepool.domain.tasks.dependencies import from_lines
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.retention import Retention, days_told
from nodepool.domain.tasks.retries import codes_from_text
from nodepool.domain.tasks.run_inputs import arguments_from_json, mapping_from_json
from nodepool.domain.tasks.run_secrets import words_of
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.messaging.names import partition_queue
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis.node_registry import NodeReport
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.node_rows import StoredNode
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.task_rows import OwnedTask, ShownRun, WholeTask
from nodepool.stores.sql.verification_records import tier_of

_MIB_PER_GIB = 1024
_STOPPED_BY_OPERATOR = str(because(ReasonCode.STOPPED_BY_OPERATOR))


def is_held_back(row: OwnedTask) -> bool:
    """Its run has ended, and its owner is told so when the result is given (domain/trust/holding_back.py)."""
    return row.held_back_until > 0


def page_size(size: int, *, default: int, most: int) -> int:
    """0 is the default, more than `most` is `most`; InvalidInputError below 0."""
    if size < 0:
        raise InvalidInputError(f"page_size must be 0 (for {default}) to {most}, not {size}")
    return min(size or default, most)


def is_final(row: OwnedTask) -> bool:
    """For the task's owner."""
    return row.state in FINAL_TASK_STATES and not is_held_back(row)


def shown_state(row: OwnedTask) -> TaskState:
    return TaskState.RUNNING if is_held_back(row) else row.state


def task_detail(
    row: OwnedTask,
    retention: Retention,
    attempts: Sequence[PastAttempt] = (),
    runs: Sequence[ShownRun] = (),
    given: WholeTask | None = None,
    told: Sequence[StoredNotification] = (),
) -> pb.TaskDetail:
    """`given`: the task where it is to be told, too, what its entry script is given."""
    held = is_held_back(row)
    return pb.TaskDetail(
        state=wire.state_to_wire(shown_state(row)),
        **_order(row),
        reason=_checked_message(row) if held else _reason(row),
        assigned_node=row.node_id,
        attempt_number=_attempt_number(row),
        exit_code=0 if held else row.exit_code or 0,
        has_exit_code=row.exit_code is not None and not held,
        **_result(row, retention),
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at or 0,
        finished_at=0 if held else row.finished_at or 0,
        queue=partition_queue(row.tier, row.region),
        owner=row.owner,
        stop_requested=row.stop_requested,
        **_wishes(row),
        **_money(row),
        attempts=[_attempt_record(attempt, held=held) for attempt in attempts],
        replicas=row.replicas,
        verification=row.verification,
        replica_records=[_replica_record(run) for run in runs],
        held_back_until=row.held_back_until,
        secrets=words_of(mapping_from_json(row.secrets)),
        **_tries(row),
        name=row.name,
        labels=mapping_from_json(row.labels),
        arguments=arguments_from_json(given.arguments) if given else (),
        environment=mapping_from_json(given.environment) if given else {},
        job_id=row.job_id,
        job_index=row.job_index,
        resubmit_of=row.resubmit_of,
        needs=_requirements(row),
        notify=from_lines(row.notify),
        notifications=map(notification, told),
    )


def _result(row: OwnedTask, retention: Retention) -> dict[str, Any]:
    """The fields that say what there is of its result, and for how long."""
    gone = row.files_removed_at > 0
    has_result = bool(row.result_attempt) and not is_held_back(row) and not gone
    return {
        "has_result": has_result,
        "result_bytes": row.result_bytes if has_result else 0,
        "result_until": retention.result_until(row.finished_at or 0) if has_result else 0,
        "result_removed_at": row.files_removed_at if row.result_attempt else 0,
        "output_removed": gone and not row.log_bytes,
    }


def _wishes(row: OwnedTask) -> dict[str, Any]:
    """As they were submitted."""
    return {
        "priority": row.priority,
        "memory_mb": row.memory_mb,
        "min_trust": row.min_trust,
        "location_mode": row.location_mode,
        "take_pending": row.take_pending,
        "exclusive": row.exclusive,
        "fresh": row.fresh,
        "secrets_on_low_trust": row.secrets_on_low_trust,
    }


def _requirements(row: OwnedTask) -> pb.TaskRequirements:
    return pb.TaskRequirements(
        cpu_score=row.cpu_score,
        memory_gb=row.memory_gb,
        gpu_score=row.gpu_score,
        gpu_memory_gb=row.gpu_memory_gb,
        gpu_name=row.gpu_name,
        region=row.region,
        image=row.image,
        network=row.network,
    )


def _tries(row: OwnedTask) -> dict[str, Any]:
    """The fields that say what becomes of it where its own program fails, and how often it has."""
    return {
        "retries": row.retries,
        "retry_on": codes_from_text(row.retry_on),
        "backoff_seconds": row.backoff_seconds,
        "tries_failed": 0 if is_held_back(row) else row.tries_failed,
        "next_try_at": row.wait_until,
    }


def _order(row: OwnedTask) -> dict[str, Any]:
    """The fields that say after what it runs."""
    return {
        "waits_for_others": row.state is TaskState.WAITING,
        "after": from_lines(row.after),
        "after_any": from_lines(row.after_any),
    }


def _money(row: OwnedTask) -> dict[str, Any]:
    """The fields that say what it may cost, holds and has paid."""
    paid = row.hold_posted or 0
    return {
        "max_minutes": row.max_minutes,
        "minutes_by_balance": row.minutes_by_balance,
        "price_per_minute_cpt": row.price_per_minute,
        "holds_when_placed": row.holds_when_placed,
        "held_cpt": (row.hold_amount or 0) - paid if row.hold_state is HoldState.HELD else 0,
        "paid_cpt": paid,
    }


def _attempt_number(row: OwnedTask) -> int:
    """With several runs, each has attempts of its own."""
    return row.attempt_number if row.replicas == 1 else min(1, row.attempt_number)


def _replica_record(run: ShownRun) -> pb.ReplicaRecord:
    return pb.ReplicaRecord(
        number=ids.run_number(run.id),
        node_id=run.node_id,
        state=run.state,
        digest=run.result_digest,
        verdict=run.verification,
    )


def _attempt_record(row: PastAttempt, *, held: bool) -> pb.AttemptRecord:
    return pb.AttemptRecord(
        number=row.number,
        node_id=row.node_id,
        state=row.state,
        reason=row.reason,
        queue_seconds=row.queue_seconds,
        placed_at=row.created_at,
        started_at=row.started_at or 0,
        finished_at=row.finished_at or 0,
        exit_code=0 if held else row.exit_code or 0,
        has_exit_code=row.exit_code is not None and not held,
        cpu_seconds=row.cpu_seconds or 0,
        peak_memory_bytes=row.peak_memory_bytes or 0,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        reason_class=row.reason_class,
        run_seconds=row.run_seconds or 0.0,
    )


def task_status(row: OwnedTask, retention: Retention) -> pb.TaskStatus:
    return pb.TaskStatus(
        task_id=row.id,
        status=status_word(row),
        created_at=str(int(row.created_at)),
        updated_at=str(int(row.updated_at)),
        assigned_node=row.node_id,
        detail=task_detail(row, retention),
    )


def task_page(rows: Sequence[OwnedTask], token: str, retention: Retention) -> pb.ListTasksResponse:
    return pb.ListTasksResponse(
        success=True,
        message=f"{len(rows)} tasks",
        tasks=[task_status(row, retention) for row in rows],
        next_page_token=token,
    )


def status_word(row: OwnedTask) -> str:
    return wire.TASK_STATUS_WORDS[shown_state(row)]


def _checked_message(row: OwnedTask) -> str:
    until = datetime.fromtimestamp(row.held_back_until, UTC)
    return (
        "its result is being checked by another node; it is given when it stands, "
        f"at the latest at {until:%Y-%m-%d %H:%M} UTC"
    )


def covered_text(minutes: int) -> str:
    """Of a task whose owner named no max_minutes, and could not pay for the pool's default."""
    return (
        f"it may run {minutes} minutes, since the balance covers no more: name max_minutes for a longer or "
        "shorter run"
    )


def status_message(row: OwnedTask) -> str:
    """One sentence for clients that show `message`."""
    if is_held_back(row):
        return _checked_message(row)
    if row.files_removed_at and row.result_attempt:
        return f"{_state_message(row)}; {removed_text(row)}"
    return _state_message(row)


def removed_text(row: OwnedTask) -> str:
    """Of a task whose result is not there any more."""
    after = days_told(row.files_removed_at - (row.finished_at or row.files_removed_at))
    return f"its result was removed {after} after its end, as it is done here"


def _reason(row: OwnedTask) -> str:
    if row.state is TaskState.STOPPED and row.stopped_by_operator:
        return _STOPPED_BY_OPERATOR  # its node knows of no operator, and says that its owner did
    return row.reason


def _state_message(row: OwnedTask) -> str:
    if reason := _reason(row):
        return reason
    minutes = f", for {row.max_minutes} minutes at the most, which its owner's balance covered"
    fewer = minutes if row.minutes_by_balance else ""
    return {
        TaskState.QUEUED: f"waiting for a node{fewer}",
        TaskState.WAITING: "waiting for other tasks",
        TaskState.PLACED: f"given to node {row.node_id}{fewer}",
        TaskState.RUNNING: f"running on node {row.node_id}{fewer}",
        TaskState.SUCCEEDED: "completed",
        TaskState.FAILED: "failed",
        TaskState.STOPPED: "stopped",
    }[row.state]


def node_info(
    row: StoredNode,
    view: NodeView | None,
    report: NodeReport | None,
    *,
    now: float,
    late_seconds: float,
    rules: HistoryRules,
) -> pb.WorkerNodeInfo:
    age = report.age_seconds if report else float("inf")
    info = pb.WorkerNodeInfo(
        node_id=row.id,
        hostname=row.hostname,
        cpu_cores=row.cpu_cores,
        memory_gb=row.memory_gb,
        status=wire.NODE_STATUS_WORDS[_node_status(row, age, late_seconds)],
        last_heartbeat=now - age if report else 0.0,
        cpu_score=row.cpu_score,
        gpu_score=row.gpu_score,
        gpu_memory_gb=row.gpu_memory_gb,
        location=row.location,
        port=row.port,
        gpu_name=row.gpu_name,
        trust_tier=tier_of(row),
        region=row.region,
        docker_status=row.docker_status,
        draining=row.draining,
        max_tasks=row.max_tasks,
        cpu_percent=report.cpu_percent if report else 0.0,
        memory_percent=report.memory_percent if report else 0.0,
        owner=row.owner,
        kind=row.kind,
        unfit=_why_unfit(row, now),
        capabilities=row.capabilities.split(),
        largest_message_bytes=row.refusals.largest_message(now),
    )
    info.MergeFrom(_standing(row, now, rules))
    if view is not None:
        info.MergeFrom(_amounts(view))
    if report is not None and age <= late_seconds:
        info.MergeFrom(_used(row, report))
    return info


def _standing(row: StoredNode, now: float, rules: HistoryRules) -> pb.WorkerNodeInfo:
    """How it did, and whose tasks it takes."""
    history = row.history.as_of(now, rules)
    level = isolation_of(row.isolation, row.docker_status)
    return pb.WorkerNodeInfo(
        success_rate=history.success_rate,
        relative_speed=history.relative_speed,
        history_weight=history.weight,
        on_probation=history.on_probation(rules),
        isolation=level,
        owner_only=is_owner_only(row.kind, level, accepts_strangers=row.accepts_strangers),
    )


def _used(row: StoredNode, report: NodeReport) -> pb.WorkerNodeInfo:
    """The node's word: no more than it has."""
    uses = report.uses.values()
    return pb.WorkerNodeInfo(
        used_cpu_score=min(row.cpu_score, sum(use.cpu_score for use in uses)),
        used_memory_mb=min(row.memory_gb * _MIB_PER_GIB, sum(use.memory_mb for use in uses)),
    )


def _why_unfit(row: StoredNode, now: float) -> str:
    """In words, why it gets no work now, whether it says so itself or not."""
    told = row.unfit or NO_WORK_WORDS[row.generation]
    if told or not row.refusals.backs_off(now):
        return told
    return f"it refused what it was given, and is asked again in {row.refusals.backoff_until - now:.0f} s"


def _amounts(view: NodeView) -> pb.WorkerNodeInfo:
    capacity, reserved = view.capacity, view.reserved
    return pb.WorkerNodeInfo(
        running_tasks=reserved.tasks,
        on_trial=view.on_trial,
        capacity_cpu_score=capacity.cpu_score,
        capacity_memory_mb=capacity.memory_mb,
        capacity_gpu_score=capacity.gpu_score,
        capacity_gpu_memory_gb=capacity.gpu_memory_gb,
        reserved_cpu_score=reserved.cpu_score,
        reserved_memory_mb=reserved.memory_mb,
        reserved_memory_gb=-(-reserved.memory_mb // _MIB_PER_GIB),
        reserved_gpu_score=reserved.gpu_score,
        reserved_gpu_memory_gb=reserved.gpu_memory_gb,
    )


def _node_status(row: StoredNode, age_seconds: float, late_seconds: float) -> NodeStatus:
    if age_seconds > late_seconds:
        return NodeStatus.OFFLINE
    return NodeStatus.DRAINING if row.draining else NodeStatus.ONLINE
