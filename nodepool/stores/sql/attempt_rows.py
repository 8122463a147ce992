"""Attempts as the stores return them: live ones for the sweep, ended ones for people, pushed ones."""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.reason_classes import ReasonClass, class_of_stored
from nodepool.domain.tasks.states import LIVE_ATTEMPT_STATES, AttemptState, Outcome
from nodepool.stores.sql.typed_rows import FromRow

_HANDED_BACK = {AttemptState.LOST: Outcome.LOST, AttemptState.REFUSED: Outcome.REFUSED}


@dataclass(frozen=True, slots=True)
class LiveAttempt(FromRow):
    """An attempt that its node has, with what the pool needs to know of its task."""

    id: str
    task_id: str
    number: int
    node_id: str
    state: AttemptState
    claim_cpu_score: int
    claim_memory_mb: int
    claim_gpu_score: int
    claim_gpu_memory_gb: int
    created_at: float
    started_at: float | None
    stop_requested: bool
    max_minutes: int
    attempts_ended: int
    task_credit_score: int  # of the task's owner
    owner_id: int  # of the node

    @property
    def claim(self) -> Claim:
        return Claim(
            self.claim_cpu_score, self.claim_memory_mb, self.claim_gpu_score, self.claim_gpu_memory_gb
        )


@dataclass(frozen=True, slots=True)
class PastAttempt(FromRow):
    """How an attempt of a task went, as its owner is shown it."""

    id: str
    task_id: str
    number: int
    node_id: str
    state: AttemptState
    reason: str
    reason_code: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    exit_code: int | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    queue_seconds: float
    bytes_in: int
    bytes_out: int
    run_seconds: float | None

    @property
    def reason_class(self) -> ReasonClass:
        """Whose fault its end was; nobody's of one that has not ended, or ended well."""
        if self.state is AttemptState.FINISHED:
            outcome = Outcome.FAILED if self.exit_code or self.reason else Outcome.SUCCEEDED
        elif (handed_back := _HANDED_BACK.get(self.state)) is not None:
            outcome = handed_back
        else:
            return ReasonClass.NONE
        return class_of_stored(outcome, self.reason_code)


@dataclass(frozen=True, slots=True)
class PushedAttempt(FromRow):
    """An attempt on a node without an agent, or one that may be: all that it takes to call the node."""

    id: str
    task_id: str
    number: int
    node_id: str
    state: AttemptState
    created_at: float
    pushed_at: float  # 0: not yet
    started_at: float | None
    attempt_number: int  # of the task's current attempt
    task_node: str
    stop_requested: bool
    package_sha256: str
    package_bytes: int
    claim_cpu_score: int
    claim_memory_mb: int
    claim_gpu_score: int
    claim_gpu_memory_gb: int
    max_minutes: int
    result_attempt: str
    price_per_minute: int
    fee_percent: int | None
    kind: NodeKind
    generation: Generation
    active: bool
    owner_id: int  # of the node
    hostname: str
    port: int
    peer_address: str

    @property
    def claim(self) -> Claim:
        return Claim(
            self.claim_cpu_score, self.claim_memory_mb, self.claim_gpu_score, self.claim_gpu_memory_gb
        )

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_ATTEMPT_STATES and self.attempt_number == self.number
