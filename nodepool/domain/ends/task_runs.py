"""A task that has several runs, or one that is checked by another run, and those runs, as facts. Pure.

What follows from them is in `replicated_end` (a user asked for several runs) and `check_end`
(the pool checks a result).
"""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.money.settlement import Hold
from nodepool.domain.tasks.reasons import NO_REASON, Reason, ReasonCode, because
from nodepool.domain.tasks.states import FINAL_TASK_STATES, AttemptState, RunVerdict, TaskState
from nodepool.domain.trust.provisional import ProvisionalResult
from nodepool.domain.trust.replication import ReplicaRun
from nodepool.domain.trust.voting import Finding, Vote

# Of runs which are ended because nobody needs them any more.
NOT_NEEDED = because(ReasonCode.NOT_NEEDED)
VERDICTS = {
    Finding.VERIFIED: RunVerdict.AGREED,
    Finding.DIFFERED: RunVerdict.DIFFERS,
    Finding.UNDECIDED: RunVerdict.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentTask:
    """The task itself, which nobody else may change now."""

    id: str
    owner_id: int
    state: TaskState
    replicas: int = 1
    stop_requested: bool = False
    max_minutes: int = 60
    price_per_minute: int = 0
    tier: str = ""
    region: str = ""
    reason: Reason = NO_REASON
    result_digest: str = ""
    is_held_back: bool = False  # its owner has not seen how it ended


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One of its runs, which is a task of its own, with its current attempt and whose node that is on."""

    id: str
    state: TaskState
    reason: Reason = NO_REASON
    verification: str = ""
    stop_requested: bool = False
    node_id: str = ""
    exit_code: int | None = None
    result_digest: str = ""
    result_attempt: str = ""
    result_bytes: int = 0
    attempt_id: str = ""
    attempt_state: AttemptState | None = None
    attempt_started_at: float | None = None
    attempt_finished_at: float | None = None
    attempt_run_seconds: float | None = None  # None: as those two say
    attempt_idle: bool = False
    provider_id: int | None = None
    trusted: bool = False  # its node: verification.is_trusted, or above the lowest tier

    @property
    def is_open(self) -> bool:
        return self.state not in FINAL_TASK_STATES

    @property
    def provider(self) -> int:
        """Of a run that was on a node; nobody has the id 0."""
        return self.provider_id or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFamily:
    """A task with its runs, by number. `others`: another owner than all of theirs has a node."""

    parent: ParentTask
    runs: tuple[TaskRun, ...]
    others: bool = False
    hold: Hold | None = None  # of a task with several runs
    checked: ProvisionalResult | None = None  # the result of the task itself that a run checks


def as_replica(run: TaskRun) -> ReplicaRun:
    voted = run.attempt_state is AttemptState.FINISHED and bool(run.result_digest)
    started, ended = run.attempt_started_at or 0.0, run.attempt_finished_at or 0.0
    return ReplicaRun(
        state=run.state,
        vote=_vote_of(run) if voted else None,
        ended_at=ended,
        seconds=max(0.0, ended - started) if run.attempt_run_seconds is None else run.attempt_run_seconds,
        given_up=run.state is TaskState.FAILED and run.attempt_state is not AttemptState.FINISHED,
    )


def _vote_of(run: TaskRun) -> Vote:
    return Vote(run_id=run.id, owner_id=run.provider, digest=run.result_digest, trusted=run.trusted)
