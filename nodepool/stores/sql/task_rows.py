"""Tasks as the stores return them: one class for each set of columns that somebody asks for.

`StoredTask` has what a task is and how it goes; where many rows are read, a smaller class has less.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nodepool.domain.money.ledger import HoldState
from nodepool.domain.money.pricing import to_hold_when_placed
from nodepool.domain.tasks.states import AttemptState, LocationMode, TaskKind, TaskState
from nodepool.domain.trust.benchmark_probe import Belief
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql.typed_rows import FromRow


@dataclass(frozen=True, slots=True)
class StoredTask(FromRow):
    """A task with what it asks for, its state and its result. Empty text: not told, or not there yet."""

    id: str
    owner_id: int
    kind: TaskKind
    parent_id: str  # of a run of another task
    job_id: str  # empty: it is of none
    job_index: int
    state: TaskState
    reason: str
    cpu_score: int
    memory_gb: int
    memory_mb: int  # what memory_gb is rounded up from; 0: memory_gb says it
    gpu_score: int
    gpu_memory_gb: int
    gpu_name: str
    region: str
    location_mode: LocationMode
    tier: Tier
    min_trust: str
    pinned_node: str
    priority: int
    image: str
    network: bool
    max_minutes: int
    price_per_minute: int
    holds_when_placed: bool  # its price is set aside when it is first placed
    minutes_by_balance: bool  # max_minutes is what its owner's balance covered
    replicas: int
    compare_outputs: str  # one pattern a line
    take_pending: bool
    after: str  # tasks and jobs that it comes after, one id a line
    after_any: str
    exclusive: bool
    fresh: bool
    secrets: str  # JSON: their names, by the variables that they become
    secrets_on_low_trust: bool
    retries: int  # of tries that failed by its own program
    retry_on: str  # exit codes, with blanks between; empty: all
    backoff_seconds: int
    tries_failed: int
    wait_until: float  # before its next try; 0: nothing keeps it
    hold_again: int  # CPT that placing it sets aside, since its last try was paid
    resubmit_of: str  # the task or job that it does again
    capabilities: str  # that its node's agent must have, with blanks between
    name: str
    labels: str  # JSON
    notify: str  # names of targets that are told of its end, one a line
    verification: str  # one of Verification or, of a run, of RunVerdict
    result_digest: str
    package_sha256: str
    package_bytes: int
    attempt_number: int
    attempts_ended: int
    node_id: str
    stop_requested: bool
    stopped_by_operator: bool  # and not by its owner
    exit_code: int | None
    result_bytes: int
    result_attempt: str
    created_at: float
    updated_at: float
    queued_at: float
    started_at: float | None
    finished_at: float | None
    held_back_until: float  # 0: its result is not kept from its owner
    files_removed_at: float  # 0: its package and result are there
    log_bytes: int  # of its output, kept apart: no result has it, or that is removed
    deleted_at: float  # by its owner; 0: not


@dataclass(frozen=True, slots=True)
class OwnedTask(StoredTask):
    """The task with the name of its owner, and what it holds and has paid."""

    owner: str
    hold_state: HoldState | None
    hold_amount: int | None
    hold_posted: int | None


@dataclass(frozen=True, slots=True)
class WholeTask(OwnedTask):
    """One task with what its entry script is given, which lists leave out: it may be long."""

    arguments: str = field(repr=False)  # JSON
    environment: str = field(repr=False)  # JSON


@dataclass(frozen=True, slots=True)
class TaskPulse(FromRow):
    """Whether a task that is watched has changed for its owner."""

    id: str
    state: TaskState
    held_back_until: float
    attempt_number: int
    stop_requested: bool


@dataclass(frozen=True, slots=True)
class ShownRun(FromRow):
    """One run of a task whose results are compared, as the task's owner is shown it."""

    id: str
    node_id: str
    state: TaskState
    result_digest: str
    verification: str


@dataclass(frozen=True, slots=True)
class QueuedTask(FromRow):
    """What placement and its order need to know of a task that waits for a node."""

    id: str
    owner_id: int
    kind: TaskKind
    job_id: str
    job_index: int
    tier: Tier
    min_trust: str
    region: str
    location_mode: LocationMode
    gpu_name: str
    pinned_node: str
    image: str
    network: bool
    secrets: str
    secrets_on_low_trust: bool
    capabilities: str
    cpu_score: int
    memory_gb: int
    gpu_score: int
    gpu_memory_gb: int
    package_bytes: int
    priority: int
    created_at: float
    queued_at: float
    attempt_number: int
    attempts_ended: int
    price_per_minute: int
    max_minutes: int
    holds_when_placed: bool
    hold_again: int
    reason_code: str  # of why it waits; one of ReasonCode, or of a later version
    memory_mb: int = 0

    @property
    def to_hold(self) -> int:
        return to_hold_when_placed(self)


@dataclass(frozen=True, slots=True)
class TaskHint(FromRow):
    """A waiting task, and which dispatchers are told of it."""

    id: str
    tier: Tier
    region: str


@dataclass(frozen=True, slots=True)
class DependentTask(FromRow):
    """A task that waited for others, as it goes on or is stopped."""

    id: str
    owner_id: int
    kind: TaskKind
    tier: Tier
    region: str
    replicas: int
    holds_when_placed: bool


@dataclass(frozen=True, slots=True)
class AssignedTask(FromRow):
    """A task with the attempt of it that a node has: what the node needs, and whether it may still."""

    id: str
    owner_id: int
    parent_id: str
    state: TaskState
    cpu_score: int
    memory_gb: int
    gpu_score: int
    gpu_memory_gb: int
    image: str
    network: bool
    exclusive: bool
    fresh: bool
    arguments: str = field(repr=False)  # JSON
    environment: str = field(repr=False)  # JSON
    secrets: str  # JSON
    secrets_on_low_trust: bool
    capabilities: str
    max_minutes: int
    package_sha256: str
    package_bytes: int
    attempt_number: int  # of the task's current attempt
    stop_requested: bool
    job_id: str
    flow_index: int  # among all tasks of the job
    job_index: int  # its own, in its array
    job_tasks: int | None  # of the array, or the step of a flow that is one, that it is a task of
    number: int  # of this one
    attempt_id: str
    attempt_state: AttemptState
    attempt_node: str
    node_kind: str
    node_docker: str
    node_isolation: str
    node_accepts_strangers: bool
    node_capabilities: str
    memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class TaskOfAttempt(FromRow):
    """The task of an attempt, as far as its results are compared, and who wanted its end."""

    id: str
    state: TaskState
    owner_id: int
    stop_requested: bool
    parent_id: str
    compare_outputs: str
    package_sha256: str
    result_attempt: str
    number: int  # of the attempt
    attempt_created_at: float


@dataclass(frozen=True, slots=True)
class RecentTask(FromRow):
    """The outside of a task that a user sent lately."""

    id: str
    memory_gb: int
    max_minutes: int
    package_bytes: int


@dataclass(frozen=True, slots=True)
class OpenProbe(FromRow):
    """A probe that is not judged yet, with its task, the last attempt of that, and its node."""

    task_id: str
    node_id: str
    seed: str
    chains: int
    work: int
    claimed_cpu_score: int
    created_at: float
    state: TaskState
    attempt_number: int
    attempts_ended: int
    stop_requested: bool
    result_attempt: str
    result_bytes: int
    package_sha256: str
    memory_gb: int
    attempt_state: AttemptState | None
    started_at: float | None
    finished_at: float | None
    owner_id: int  # of the node
    draining: bool
    active: bool
    cpu_score: int
    measured_cpu_score: int
    slow_probes: int
    engine_shown: bool

    @property
    def belief(self) -> Belief:
        return Belief(claimed=self.cpu_score, measured=self.measured_cpu_score, slow=self.slow_probes)

    @property
    def ran_seconds(self) -> float:
        """By the pool's clock, from the claim to the end."""
        if self.started_at is None or self.finished_at is None:
            return 0.0
        return max(0.0, self.finished_at - self.started_at)
