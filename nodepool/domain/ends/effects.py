"""What a decision on the end of a run does, as data. Pure; whoever applies it decides nothing.

Every change names the state that it was decided on, so that it can be guarded by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nodepool.domain.money.settlement import HoldEnd, TryPaid
from nodepool.domain.nodes.fitness import Refusals
from nodepool.domain.nodes.history import HistoryRules, NodeHistory
from nodepool.domain.tasks.reasons import NO_REASON, Reason
from nodepool.domain.tasks.states import AttemptState, RunVerdict, TaskState, Verification
from nodepool.domain.trust.audits import Rules
from nodepool.domain.trust.credit_moves import NewChange, Score, ScoreMove, moves
from nodepool.domain.trust.provisional import AddedRun, TrustBook, TrustEffects, TrustFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRules:
    """The operator's choices. `start_score` is a newcomer's credit score."""

    max_attempts: int = 5
    start_score: int = 50
    history: HistoryRules = HistoryRules()  # noqa: RUF009 - a frozen value
    audits: Rules = Rules()  # noqa: RUF009 - a frozen value


@dataclass(frozen=True, slots=True, kw_only=True)
class Tickets:
    """Chance: 0 <= ticket < 1 each, from a source that no node can foresee."""

    draw: float = 0.0  # which result of a block is checked
    spot: float = 1.0  # whether a result is checked that nobody asked to check


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedAttempt:
    id: str
    before: AttemptState
    state: AttemptState
    exit_code: int | None
    reason: Reason
    idle: bool
    cpu_seconds: float
    peak_memory_bytes: int
    bytes_out: int
    run_seconds: float | None = None  # that are paid for; None: it never began


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a task has of the run whose result is its own."""

    exit_code: int | None
    result_bytes: int
    result_attempt: str
    node_id: str
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedTask:
    """The task of the attempt. Back in the queue, or ended: then `digest`, and `result` where it has one."""

    id: str
    before: TaskState
    attempt_number: int
    state: TaskState
    reason: Reason
    attempts_ended: int
    exit_code: int | None = None
    digest: str = ""
    result_bytes: int | None = None  # None: it returned nothing
    result_attempt: str = ""
    log_bytes: int = 0  # of its output, kept apart
    tries_failed: int = 0
    wait_until: float = 0.0  # before it is tried again; 0: nothing keeps it
    hold_again: int = 0  # CPT that its next placement sets aside, since the last try was paid out of its hold


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryChange:
    node_id: str
    history: NodeHistory
    seen_differently: bool  # by ranking and reservations


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalsChange:
    node_id: str
    refusals: Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentEnd:
    """The end of a task with several runs; None: as it was."""

    before: TaskState
    state: TaskState
    reason: Reason
    verification: Verification | None = None
    digest: str | None = None
    result: RunResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedResult:
    """Another run's result takes the place of a task's own, which has ended before."""

    result: RunResult
    reason: Reason
    state: TaskState | None = None  # of that run, where nobody has seen how the task ended before


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyEffects:
    """What becomes of a task with runs. `dropped`: why its open runs end, where they do."""

    task_id: str
    verdicts: tuple[tuple[str, RunVerdict], ...] = ()
    ended: ParentEnd | None = None
    replaced: ReplacedResult | None = None
    dropped: Reason = NO_REASON


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What is to be told outside SQL: runs that wait, and (node, attempt) of those to be stopped."""

    task_id: str
    added: tuple[AddedRun, ...] = ()
    stopped: tuple[tuple[str, str], ...] = ()
    ended: bool = False
    tiers_changed: frozenset[int] = frozenset()  # owners whose score opens another tier now
    paused: frozenset[str] = frozenset()  # nodes that get no low-trust work for a while, or are trusted anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """All that one decision does. `told_before`: nothing, because it was told before."""

    now: float
    told_before: bool = False
    closed: ClosedAttempt | None = None
    moved: MovedTask | None = None
    history: HistoryChange | None = None
    refusals: RefusalsChange | None = None
    settlement: HoldEnd | None = None
    try_paid: TryPaid | None = None
    family: FamilyEffects | None = None
    trust: TrustEffects = TrustEffects()  # noqa: RUF009 - a frozen value
    scores: tuple[ScoreMove, ...] = ()
    added: tuple[AddedRun, ...] = ()
    follow_up: FollowUp | None = None

    @property
    def tiers_changed(self) -> frozenset[int]:
        return frozenset(move.user_id for move in self.scores if move.changes_tier)

    def told(self, task_id: str) -> FollowUp:
        """What is to be told of this task outside SQL, all of it."""
        return replace(self.follow_up or FollowUp(task_id), tiers_changed=self.tiers_changed)


class EndDecision:
    """One decision as it gathers: the facts that its steps share, and what they have come to so far."""

    def __init__(
        self,
        *,
        now: float,
        rules: EndRules,
        tickets: Tickets,
        trust: TrustFacts | None = None,
        scores: Mapping[int, Score] | None = None,
    ) -> None:
        self.now, self.rules = now, rules
        self.book = TrustBook(trust or TrustFacts(), rules=rules.audits, now=now, ticket=tickets.draw)
        self._scores = scores or {}
        self._changes: list[NewChange] = []
        self._watched: dict[str, int] = {}
        self.settlement: HoldEnd | None = None
        self.try_paid: TryPaid | None = None
        self.family: FamilyEffects | None = None
        self._added: list[AddedRun] = []
        self._stopped: list[tuple[str, str]] = []
        self._task_id = ""
        self._ended = False

    def credit(self, changes: Iterable[NewChange]) -> None:
        self._changes.extend(changes)

    def watch(self, node_id: str, results: int) -> None:
        """So many of the node's next results are checked, whatever its trust."""
        self._watched[node_id] = results

    def follow(
        self,
        task_id: str,
        *,
        added: Iterable[AddedRun] = (),
        stopped: Iterable[tuple[str, str]] = (),
        ended: bool = False,
    ) -> None:
        """There is something to be told of this task outside SQL."""
        self._task_id = task_id
        self._added.extend(added)
        self._stopped.extend(stopped)
        self._ended = self._ended or ended

    def effects(self) -> Effects:
        trust = replace(self.book.effects(), watched=dict(self._watched))
        scores = moves(self._scores, self._changes, start=self.rules.start_score, now=self.now)
        added = (*self._added, *self.book.added)
        follow_up = FollowUp(
            self._task_id,
            added=added,
            stopped=tuple(self._stopped),
            ended=self._ended,
            paused=frozenset(self.book.paused | self.book.seen_differently()),
        )
        return Effects(
            now=self.now,
            settlement=self.settlement,
            try_paid=self.try_paid,
            family=self.family,
            trust=trust,
            scores=scores,
            added=added,
            follow_up=follow_up if self._task_id else None,
        )
