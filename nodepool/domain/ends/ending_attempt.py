"""An attempt that ends: how it ended by its node's word, and what is known of it, as facts. Pure.

What follows is decided in `attempt_end`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.money import run_time
from nodepool.domain.nodes.fitness import Refusals
from nodepool.domain.nodes.history import NodeHistory
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.reason_classes import ReasonClass, class_of
from nodepool.domain.tasks.reasons import Reason
from nodepool.domain.tasks.retries import RetryRules
from nodepool.domain.tasks.states import AttemptState, Outcome, TaskKind, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How an attempt ended, by its node's word."""

    outcome: Outcome
    exit_code: int | None
    reason: Reason
    result_bytes: int = 0
    has_result: bool = False
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    output_bytes: int = 0
    log_bytes: int = 0  # of its output, kept apart since its result may not have it
    digest: str = ""  # of what is compared; made by the pool, empty where nobody compares
    run_seconds: float | None = None  # as its node measured it; None: it does not tell
    measured_seconds: float | None = None  # since its claim, where the process that ends it saw that
    # The pool ended it for its own reasons: it counts neither against the node nor against the task.
    blameless: bool = False
    # The pool ended it because its node had not: past its bound, or after a stop.
    late: bool = False
    # Nothing shows that its node worked at it: no output, no CPU, no result. Not paid; when the pool had to
    # end it, it costs what a false result costs.
    idle: bool = False

    @property
    def reason_class(self) -> ReasonClass:
        """Whose fault it is."""
        return ReasonClass.POOL if self.blameless else class_of(self.outcome, self.reason.code)

    @property
    def is_nodes_fault(self) -> bool:
        return self.reason_class is ReasonClass.NODE

    @property
    def counts_against_task(self) -> bool:
        """A task that kills its nodes must end some day; what nodes refuse says nothing of it."""
        return self.outcome is Outcome.LOST and self.is_nodes_fault

    @property
    def is_idleness(self) -> bool:
        """The node took the run and did nothing, until the pool ended it."""
        return self.idle and self.late


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingTask:
    id: str
    owner_id: int
    kind: TaskKind = TaskKind.USER
    state: TaskState = TaskState.RUNNING
    attempt_number: int = 1
    attempts_ended: int = 0  # those that were lost
    stop_requested: bool = False
    pinned_node: str = ""
    max_minutes: int = 60
    tier: str = ""
    region: str = ""
    package_sha256: str = ""
    package_bytes: int = 0
    started_at: float | None = None
    image: str = ""
    has_secrets: bool = False  # which the pool sends to no second node by itself
    retry: RetryRules = RetryRules()  # noqa: RUF009 - a frozen value
    tries_failed: int = 0  # by its own doing
    take_pending: bool = False  # its owner takes a result before it is checked
    is_suspect: bool = False  # its owner's tasks were lost with others lately, who paid for it


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingNode:
    id: str
    owner_id: int
    draining: bool = False
    active: bool = True
    cpu_cores: int = 1
    cpu_score: int = 0
    memory_gb: int = 0
    history: NodeHistory = NodeHistory()  # noqa: RUF009 - a frozen value
    refusals: Refusals = Refusals()  # noqa: RUF009 - a frozen value
    is_low: bool = False  # in the lowest tier, whose results are checked
    is_watched: bool = False  # its next results are checked, whatever its tier


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingAttempt:
    """An attempt with its task and its node, which nobody else may change now."""

    id: str
    task: EndingTask
    node: EndingNode
    number: int = 1
    state: AttemptState = AttemptState.RUNNING
    started_at: float | None = None
    claim: Claim = Claim(0, 0, 0, 0)  # noqa: RUF009 - a frozen value

    @property
    def is_a_strangers(self) -> bool:
        """Its task is not that of its node's owner, who could order as many of these as they like."""
        return self.node.owner_id != self.task.owner_id

    def seconds(self, end: End, now: float) -> float:
        """Since its claim, as the pool saw it."""
        measured = end.measured_seconds if self.started_at is not None else None
        return run_time.seen_seconds(self.started_at, now, measured)

    def paid_seconds(self, end: End, now: float) -> float:
        return run_time.paid_seconds(end.run_seconds, self.seconds(end, now))
