"""Between the protocol's words and the rules'. The only file that knows the old wire words."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from nodepool.domain import regions
from nodepool.domain.capabilities import check_capabilities
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_node_id
from nodepool.domain.nodes.generation import when_registered
from nodepool.domain.nodes.node import NodeFacts, NodeKind, NodeStatus, default_max_tasks
from nodepool.domain.resources import Resources, whole_gibibytes
from nodepool.domain.safe_text import is_plain
from nodepool.domain.tasks.labels import check_labels
from nodepool.domain.tasks.new_task import RequestedRetries
from nodepool.domain.tasks.retries import (
    check_backoff,
    check_codes,
    check_retried,
    check_retries,
    codes_to_text,
)
from nodepool.domain.tasks.run_inputs import RunInputs
from nodepool.domain.tasks.run_secrets import wanted_secrets
from nodepool.domain.tasks.states import DEFAULT_PRIORITY, MAX_PRIORITY, LocationMode, Outcome, TaskState
from nodepool.domain.tasks.task_filter import TaskFilter, states_of
from nodepool.domain.trust.tiers import TIERS
from nodepool.domain.trust.voting import MAX_REPLICAS
from nodepool.protocol import nodepool_pb2 as pb

TASK_STATUS_WORDS = {
    TaskState.QUEUED: "PENDING",
    TaskState.WAITING: "PENDING",
    TaskState.PLACED: "PENDING",
    TaskState.RUNNING: "RUNNING",
    TaskState.SUCCEEDED: "COMPLETED",
    TaskState.FAILED: "FAILED",
    TaskState.STOPPED: "STOPPED",
}
# Finer states as clients have known them from the first on: what waits for other tasks is said beside it.
_STATES_TOLD = {TaskState.WAITING: TaskState.QUEUED}
NODE_OFFLINE = "OFFLINE"
NODE_STATUS_WORDS = {
    NodeStatus.ONLINE: "ONLINE",
    NodeStatus.DRAINING: "DRAINING",
    NodeStatus.OFFLINE: NODE_OFFLINE,
}
_OUTCOMES: dict[Outcome, pb.AttemptOutcome.ValueType] = {
    Outcome.SUCCEEDED: pb.ATTEMPT_OUTCOME_SUCCEEDED,
    Outcome.FAILED: pb.ATTEMPT_OUTCOME_FAILED,
    Outcome.STOPPED: pb.ATTEMPT_OUTCOME_STOPPED,
    Outcome.REFUSED: pb.ATTEMPT_OUTCOME_REFUSED,
    Outcome.LOST: pb.ATTEMPT_OUTCOME_LOST,
}
_OUTCOME_OF = {number: outcome for outcome, number in _OUTCOMES.items()}
_MAX_GPU_NAME = 200


def unknown_fields(message: Message) -> frozenset[int]:
    """The numbers of fields that came with it and that this protocol does not have."""
    found = UnknownFieldSet(message)
    return frozenset(found[index].field_number for index in range(len(found)))


def state_to_wire(state: TaskState) -> str:
    return _STATES_TOLD.get(state, state).value


def outcome_to_wire(outcome: Outcome) -> pb.AttemptOutcome.ValueType:
    return _OUTCOMES[outcome]


def outcome_from_wire(outcome: int) -> Outcome:
    try:
        return _OUTCOME_OF[outcome]  # type: ignore[index]
    except KeyError:
        raise InvalidInputError(f"outcome {outcome} is not one of the protocol's") from None


def needs_from_wire(request: pb.UploadTaskRequest) -> Resources:
    return Resources(
        cpu_score=request.cpu_score,
        memory_gb=request.memory_gb or whole_gibibytes(request.memory_mb),
        gpu_score=request.gpu_score,
        gpu_memory_gb=request.gpu_memory_gb,
        memory_mb=request.memory_mb,
    )


def gpu_name_from_wire(word: str) -> str:
    """Empty or `Any` asks for none."""
    name = word.strip()
    if len(name) > _MAX_GPU_NAME or not is_plain(name):
        raise InvalidInputError(f"gpu_name must be at most {_MAX_GPU_NAME} printable characters")
    return "" if name.casefold() == "any" else name


def priority_from_wire(request: pb.UploadTaskRequest) -> int:
    """0-9, 9 first; DEFAULT_PRIORITY where the client, such as every older one, says nothing."""
    if not request.HasField("priority"):
        return DEFAULT_PRIORITY
    if not 0 <= request.priority <= MAX_PRIORITY:
        raise InvalidInputError(f"priority must be 0 to {MAX_PRIORITY}, not {request.priority}")
    return request.priority


def min_trust_from_wire(word: str) -> str:
    """A tier, or empty where none is asked for."""
    tier = word.strip().casefold()
    if tier in {"", "any"}:
        return ""
    if tier not in TIERS:
        raise InvalidInputError(f"min_trust must be one of {', '.join(TIERS)} or empty, not {word[:40]!r}")
    return tier


def check_exclusive(*, exclusive: bool, replicas: int) -> None:
    if exclusive and replicas > 1:
        raise InvalidInputError(
            "an exclusive task never runs twice at one moment, and replicas do: ask for one of the two"
        )


def replicas_from_wire(count: int) -> int:
    """How many owners' nodes run it; 0, which older clients say, is 1."""
    if not 0 <= count <= MAX_REPLICAS:
        raise InvalidInputError(f"replicas must be 1 to {MAX_REPLICAS}, not {count}")
    return count or 1


def retries_from_wire(request: pb.UploadTaskRequest) -> RequestedRetries:
    """Raises InvalidInputError."""
    check_retried(retries=request.retries, replicas=request.replicas)
    return {
        "retries": check_retries(request.retries),
        "retry_on": codes_to_text(check_codes(request.retry_on)),
        "backoff_seconds": check_backoff(request.backoff_seconds),
    }


def location_mode_from_wire(word: str) -> LocationMode:
    """PREFER where the client, such as every older one, says nothing: its people cannot ask for more."""
    try:
        return LocationMode(word.strip().casefold() or LocationMode.PREFER)
    except ValueError:
        raise InvalidInputError(
            f"location_mode must be one of {', '.join(LocationMode)} or empty, not {word[:40]!r}"
        ) from None


def inputs_from_wire(request: pb.UploadTaskRequest | pb.AttemptSpec) -> RunInputs:
    return RunInputs(tuple(request.arguments), dict(request.environment))


def secrets_from_wire(request: pb.UploadTaskRequest) -> dict[str, str]:
    """Names of secrets by the variables that they become."""
    return wanted_secrets(request.secrets, request.environment)


def labels_from_wire(request: pb.UploadTaskRequest) -> dict[str, str]:
    labels = dict(request.labels)
    check_labels(labels)
    return labels


def filter_from_wire(wanted: pb.TaskFilter) -> TaskFilter:
    return TaskFilter(
        name=wanted.name,
        labels=dict(wanted.labels),
        states=states_of(wanted.states),
        node_id=wanted.node_id,
        job_id=wanted.job_id,
        since=wanted.since,
        until=wanted.until,
    )


def filter_to_wire(wanted: TaskFilter) -> pb.TaskFilter:
    return pb.TaskFilter(
        name=wanted.name,
        labels=wanted.labels,
        states=wanted.states,
        node_id=wanted.node_id,
        job_id=wanted.job_id,
        since=wanted.since,
        until=wanted.until,
    )


def node_facts_from_wire(request: pb.RegisterWorkerNodeRequest) -> NodeFacts:
    kind = NodeKind.AGENT if request.kind == NodeKind.AGENT else NodeKind.PUSHED
    return NodeFacts(
        node_id=check_node_id(request.node_id),
        hostname=request.hostname,
        cpu_cores=request.cpu_cores,
        total=Resources(
            cpu_score=request.cpu_score,
            memory_gb=request.memory_gb,
            gpu_score=request.gpu_score,
            gpu_memory_gb=request.gpu_memory_gb,
        ),
        location=request.location.strip() or "Unknown",
        region=regions.node_region(request.location),
        port=request.port,
        gpu_name=""
        if request.gpu_name.strip().casefold() in {"none", "n/a", "unknown"}
        else request.gpu_name.strip(),
        docker_status=request.docker_status,
        unfit=request.unfit,
        generation=when_registered(kind),
        kind=kind,
        max_tasks=(request.max_tasks or default_max_tasks(request.cpu_cores))
        if kind is NodeKind.AGENT
        else 1,
        isolation=request.isolation,
        accepts_strangers=request.accepts_strangers_without_isolation,
        # A worker that is called is told of nothing that is newer than its protocol.
        capabilities=check_capabilities(request.capabilities) if kind is NodeKind.AGENT else "",
    )
