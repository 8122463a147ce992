"""What the SDK answers with: plain frozen values, never protocol messages.

Times are Unix seconds, sizes bytes. Knows the protocol's messages and turns them into these;
knows no connection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hivemind.errors import UnsupportedError
from hivemind.told import NotificationInfo, notification_from_wire
from nodepool.domain.tasks.exit_codes import shell_code
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import TASK_STATUS_WORDS

# The finest state that an answer without details still proves.
_STATE_OF_WORD = {word: state for state, word in reversed(TASK_STATUS_WORDS.items())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a token says that its holder is. Read, not verified: only the pool can do that."""

    username: str
    expires_at: float

    def expired(self, now: float) -> bool:
        return bool(self.expires_at) and now >= self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptInfo:
    """How one attempt went. Amounts are 0 and times None where it has not come to that."""

    number: int
    node: str
    state: str  # assigned, running, finished, lost, refused or stopped
    reason: str = ""
    queue_seconds: float = 0.0  # from queued to placed
    placed_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    bytes_in: int = 0  # the package
    bytes_out: int = 0  # output and result
    paid_seconds: float = 0.0  # how long it ran, as it is paid for
    reason_class: str = ""  # whose fault: task, node_for_task, node or pool; empty: nobody's

    @property
    def start_seconds(self) -> float | None:
        """From placed to running."""
        if self.placed_at is None or self.started_at is None:
            return None
        return max(0.0, self.started_at - self.placed_at)

    def run_seconds(self, now: float) -> float | None:
        if self.started_at is None:
            return None
        return max(0.0, (now if self.finished_at is None else self.finished_at) - self.started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaInfo:
    """One of several runs of a task whose results are compared."""

    number: int
    node: str
    state: str
    digest: str = ""  # SHA-256 of what is compared
    verdict: str = ""  # empty while open; agreed, differs or none


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementsInfo:
    """What a task asks of a node. Scores in points, memory in GiB; 0, empty and False ask for nothing."""

    cpu_score: int = 0
    memory_gb: int = 0
    memory_mb: int = 0  # what memory_gb is rounded up from; 0: memory_gb says it
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    gpu_name: str = ""
    region: str = ""
    image: str = ""
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    task_id: str
    status: str  # PENDING, RUNNING, COMPLETED, FAILED or STOPPED
    state: TaskState
    reason: str = ""
    node: str = ""
    attempt_number: int = 0
    exit_code: int | None = None  # negative: ended by that signal
    has_result: bool = False
    result_bytes: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    queue: str = ""
    owner: str = ""
    stop_requested: bool = False
    priority: int = 0
    min_trust: str = ""
    location_mode: str = ""
    max_minutes: int = 0  # 0: an older pool, that tells none of these four
    attempts: tuple[AttemptInfo, ...] = ()  # newest last; only in `NodePoolClient.status`
    replicas: int = 1
    verification: str = ""  # empty: nothing is compared; pending, agreed, audited or disputed
    replica_records: tuple[ReplicaInfo, ...] = ()  # only in `NodePoolClient.status`
    take_pending: bool = False
    exclusive: bool = False
    fresh: bool = False
    retries: int = 0
    retry_on: tuple[int, ...] = ()  # exit codes; none: all but that of the longest run
    backoff_seconds: int = 0  # the first wait; 0: the pool's default
    tries_failed: int = 0  # so many times its own program has failed
    next_try_at: float | None = None  # it waits until then
    resubmit_of: str = ""  # the task or job that it does again
    arguments: tuple[str, ...] = ()  # only in `NodePoolClient.status`, as the next
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()  # their names, as they were asked for
    secrets_on_low_trust: bool = False
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    memory_mb: int = 0  # asked for; 0: in whole GiB, or none
    held_back_until: float | None = None  # its result is being checked, and is given then at the latest
    result_until: float | None = None  # its result is removed then; None: never, or there is none
    result_removed_at: float | None = None
    output_removed: bool = False
    minutes_by_balance: bool = False  # max_minutes was not named, and is what your balance covered
    holds_when_placed: bool = False  # its price is set aside when it is first placed
    price_per_minute_cpt: int = 0  # 0: an older pool, that does not tell it
    held_cpt: int = 0  # while it has not ended
    paid_cpt: int = 0  # when it has
    needs: RequirementsInfo | None = None  # None: an older pool, that does not tell it
    job_id: str = ""  # that it is a task of; empty: none
    job_index: int = 0
    after: tuple[str, ...] = ()  # tasks and jobs whose success it waits for
    after_any: tuple[str, ...] = ()  # and those whose end, however they end
    notify: tuple[str, ...] = ()  # targets that are told of its end
    notifications: tuple[NotificationInfo, ...] = ()  # what became of it; only in `NodePoolClient.status`

    @property
    def final(self) -> bool:
        return self.state in FINAL_TASK_STATES

    @property
    def last_exit_code(self) -> int | None:
        """Its own, or before that of the last try that failed. Only in `NodePoolClient.status`."""
        tried = (it.exit_code for it in reversed(self.attempts) if it.exit_code is not None)
        return next(tried, None) if self.exit_code is None else self.exit_code

    def run_seconds(self, now: float) -> float | None:
        """How long it has run, or None when it has not started."""
        if self.started_at is None:
            return None
        ended = self.final or self.held_back_until is not None
        end = self.finished_at if self.finished_at is not None else (self.updated_at if ended else now)
        return max(0.0, end - self.started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    task_id: str
    package_bytes: int
    repeated: bool  # this very upload was accepted before
    message: str
    warnings: tuple[str, ...] = ()
    stored_bytes: int = 0  # what your tasks kept in the pool before this one
    stored_bytes_limit: int = 0  # 0: the pool does not say
    max_minutes: int = 0  # as it was accepted; 0: the pool does not say


@dataclass(frozen=True, slots=True)
class StateEvent:
    """The task's state, first and on every change."""

    task: TaskInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputEvent:
    """Output of one attempt, in order and without gaps but for `skipped_bytes` before it."""

    attempt_number: int
    offset: int
    data: bytes
    skipped_bytes: int = 0

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


TaskEvent = StateEvent | OutputEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultInfo:
    """Where a result went. `path` is the ZIP, or the folder when it was unpacked."""

    task_id: str
    path: Path
    result_bytes: int
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def exit_code_of(task: TaskInfo) -> int:
    """What a shell would say of an ended task: its own code, 128+n for signal n, 130 when stopped."""
    return shell_code(task.state, task.exit_code)


def task_from_poll(answer: pb.PollTaskStatusResponse) -> TaskInfo:
    detail = answer.detail if answer.HasField("detail") else None
    return _task(answer.task_id, answer.status, detail, message=answer.message)


def task_from_list(entry: pb.TaskStatus) -> TaskInfo:
    if entry.HasField("detail"):
        return _task(entry.task_id, entry.status, entry.detail)
    return TaskInfo(
        task_id=entry.task_id,
        status=entry.status,
        state=_STATE_OF_WORD.get(entry.status, TaskState.QUEUED),
        node=entry.assigned_node,
        created_at=_seconds(entry.created_at),
        updated_at=_seconds(entry.updated_at),
    )


def task_from_detail(task_id: str, detail: pb.TaskDetail) -> TaskInfo:
    return _task(task_id, "", detail)


def _task(task_id: str, status: str, detail: pb.TaskDetail | None, *, message: str = "") -> TaskInfo:
    if detail is None:
        state = _STATE_OF_WORD.get(status, TaskState.QUEUED)
        return TaskInfo(task_id=task_id, status=status, state=state, reason=message)
    state = state_told(detail.state, waits_for_others=detail.waits_for_others)
    return TaskInfo(
        task_id=task_id,
        status=status or TASK_STATUS_WORDS[state],
        state=state,
        reason=detail.reason,
        node=detail.assigned_node,
        attempt_number=detail.attempt_number,
        exit_code=detail.exit_code if detail.has_exit_code else None,
        has_result=detail.has_result,
        result_bytes=detail.result_bytes,
        created_at=detail.created_at,
        updated_at=detail.updated_at,
        started_at=detail.started_at or None,
        finished_at=detail.finished_at or None,
        queue=detail.queue,
        owner=detail.owner,
        stop_requested=detail.stop_requested,
        priority=detail.priority,
        memory_mb=detail.memory_mb,
        min_trust=detail.min_trust,
        location_mode=detail.location_mode,
        **_money(detail),
        attempts=tuple(map(attempt_from_wire, detail.attempts)),
        replicas=max(1, detail.replicas),
        verification=detail.verification,
        replica_records=tuple(map(_replica, detail.replica_records)),
        take_pending=detail.take_pending,
        exclusive=detail.exclusive,
        **_tries(detail),
        resubmit_of=detail.resubmit_of,
        held_back_until=finite(detail.held_back_until) or None,
        result_until=finite(detail.result_until) or None,
        result_removed_at=finite(detail.result_removed_at) or None,
        output_removed=detail.output_removed,
        arguments=tuple(detail.arguments),
        environment=dict(detail.environment),
        secrets=tuple(detail.secrets),
        secrets_on_low_trust=detail.secrets_on_low_trust,
        name=detail.name,
        labels=dict(detail.labels),
        needs=_requirements(detail.needs, detail.memory_mb) if detail.HasField("needs") else None,
        job_id=detail.job_id,
        job_index=detail.job_index,
        **_order(detail),
    )


def _requirements(needs: pb.TaskRequirements, memory_mb: int) -> RequirementsInfo:
    return RequirementsInfo(
        cpu_score=needs.cpu_score,
        memory_gb=needs.memory_gb,
        memory_mb=memory_mb,
        gpu_score=needs.gpu_score,
        gpu_memory_gb=needs.gpu_memory_gb,
        gpu_name=needs.gpu_name,
        region=needs.region,
        image=needs.image,
        network=needs.network,
    )


def _money(detail: pb.TaskDetail) -> dict[str, Any]:
    return {
        "max_minutes": detail.max_minutes,
        "minutes_by_balance": detail.minutes_by_balance,
        "holds_when_placed": detail.holds_when_placed,
        "price_per_minute_cpt": detail.price_per_minute_cpt,
        "held_cpt": detail.held_cpt,
        "paid_cpt": detail.paid_cpt,
    }


def _tries(detail: pb.TaskDetail) -> dict[str, Any]:
    return {
        "fresh": detail.fresh,
        "retries": detail.retries,
        "retry_on": tuple(detail.retry_on),
        "backoff_seconds": detail.backoff_seconds,
        "tries_failed": detail.tries_failed,
        "next_try_at": finite(detail.next_try_at) or None,
    }


def _replica(record: pb.ReplicaRecord) -> ReplicaInfo:
    return ReplicaInfo(
        number=record.number,
        node=record.node_id,
        state=record.state,
        digest=record.digest,
        verdict=record.verdict,
    )


def attempt_from_wire(record: pb.AttemptRecord) -> AttemptInfo:
    return AttemptInfo(
        number=record.number,
        node=record.node_id,
        state=record.state,
        reason=record.reason,
        queue_seconds=finite(record.queue_seconds),
        placed_at=finite(record.placed_at) or None,
        started_at=finite(record.started_at) or None,
        finished_at=finite(record.finished_at) or None,
        exit_code=record.exit_code if record.has_exit_code else None,
        cpu_seconds=finite(record.cpu_seconds),
        peak_memory_bytes=record.peak_memory_bytes,
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        reason_class=record.reason_class,
        paid_seconds=finite(record.run_seconds),
    )


def finite(number: float) -> float:
    """A pool's number as it is, and 0 for what is no number: JSON has no word for that."""
    return number if math.isfinite(number) else 0.0


def state_from_word(word: str) -> TaskState:
    try:
        return TaskState(word)
    except ValueError:
        raise UnsupportedError(f"this client does not know the task state {word[:40]!r}") from None


def _order(detail: pb.TaskDetail) -> dict[str, Any]:
    """After what it runs, and who is told of its end."""
    return {
        "after": tuple(detail.after),
        "after_any": tuple(detail.after_any),
        "notify": tuple(detail.notify),
        "notifications": tuple(map(notification_from_wire, detail.notifications)),
    }


def state_told(word: str, *, waits_for_others: bool) -> TaskState:
    """Of a task that waits for other tasks the word says what clients have always known."""
    state = state_from_word(word)
    return TaskState.WAITING if waits_for_others and state is TaskState.QUEUED else state


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
