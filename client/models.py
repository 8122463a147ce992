"""What the SDK answers with: plain frozen values, never protocol messages.

Times are Unix seconds, sizes bytes. Knows the protocol's messages and turns them into these;
knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.errors import RefusedError, UnsupportedError
from nodepool.errors import InvalidInputError
from nodepool.regions import task_region
from nodepool.resources import MAX_AMOUNT, Resources
from nodepool.task import FINAL_TASK_STATES, TaskState
from nodepool.wire import TASK_STATUS_WORDS
from proto import nodepool_pb2 as pb

_SIGNAL_EXIT_BASE = 128

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
class TaskNeeds:
    """What a task asks of the pool. 0, "" and False ask for nothing.

    Scores in points (1000 = one core of the reference), memory in GiB. `location` is a region,
    `image` one of the operator's allow-list, `max_minutes` the longest run.
    """

    cpu_score: int = 0
    memory_gb: int = 0
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    location: str = ""
    gpu_name: str = ""
    image: str = ""
    network: bool = False
    max_minutes: int = 0

    def __post_init__(self) -> None:
        """Raises RefusedError for what no pool would take."""
        try:
            Resources(self.cpu_score, self.memory_gb, self.gpu_score, self.gpu_memory_gb)
            task_region(self.location)
        except InvalidInputError as error:
            raise RefusedError(str(error)) from error
        if not 0 <= self.max_minutes <= MAX_AMOUNT:
            raise RefusedError(f"max_minutes must be 0 to {MAX_AMOUNT}, not {self.max_minutes}")


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

    @property
    def final(self) -> bool:
        return self.state in FINAL_TASK_STATES

    def run_seconds(self, now: float) -> float | None:
        """How long it has run, or None when it has not started."""
        if self.started_at is None:
            return None
        end = self.finished_at if self.finished_at is not None else (self.updated_at if self.final else now)
        return max(0.0, end - self.started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Scores in points, memory in GiB, measured use in percent of the whole machine."""

    node_id: str
    status: str
    owner: str
    hostname: str
    port: int
    region: str
    location: str
    trust_tier: str
    docker_status: str
    draining: bool
    cpu_cores: int
    cpu_score: int
    memory_gb: int
    gpu_name: str
    gpu_score: int
    gpu_memory_gb: int
    running_tasks: int
    max_tasks: int
    reserved_cpu_score: int
    reserved_memory_gb: int
    reserved_gpu_score: int
    reserved_gpu_memory_gb: int
    cpu_percent: float
    memory_percent: float
    last_heartbeat: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    task_id: str
    package_bytes: int
    repeated: bool  # this very upload was accepted before
    message: str
    warnings: tuple[str, ...] = ()


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
    if task.state is TaskState.STOPPED:
        return _SIGNAL_EXIT_BASE + 2
    if task.state is TaskState.SUCCEEDED:
        return 0
    if task.exit_code is None or task.exit_code == 0:
        return 1
    return _SIGNAL_EXIT_BASE - task.exit_code if task.exit_code < 0 else task.exit_code & 0xFF or 1


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
        return TaskInfo(
            task_id=task_id,
            status=status,
            state=_STATE_OF_WORD.get(status, TaskState.QUEUED),
            reason=message,
        )
    state = _state(detail.state)
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
    )


def node_from_wire(node: pb.WorkerNodeInfo) -> NodeInfo:
    # Named alike on purpose.
    return NodeInfo(**{name: getattr(node, name) for name in NodeInfo.__dataclass_fields__})


def _state(word: str) -> TaskState:
    try:
        return TaskState(word)
    except ValueError:
        raise UnsupportedError(f"this client does not know the task state {word[:40]!r}") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
