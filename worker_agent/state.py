"""What the agent decides: events go in, instructions come out.

No I/O, no clock, no threads: times are seconds of one monotonic clock and come in with the events.
Messages of the queue are hints, the assigned list is the truth, and an attempt that was ever held
here is never begun a second time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from worker_agent.lease import AgentLimits, PoolContact

UNDELIVERED_SECONDS = 10.0
_MAX_GONE = 4096
_PERIODS_OF_PATIENCE = 2


class Phase(StrEnum):
    STARTING = "starting"  # claimed at the gateway, fetched, unpacked
    RUNNING = "running"
    FINISHING = "finishing"  # over; its end waits to be acknowledged


class StopCause(StrEnum):
    OWNER = "owner"  # the task's owner asked: ends as STOPPED
    AWAY = "away"  # the pool gave the attempt away: dropped without a word
    LEASE = "lease"  # no contact for as long as it may be without: ends as LOST
    SHUTDOWN = "shutdown"  # this node leaves: ends as REFUSED
    REPLACED = "replaced"  # another agent has this node's id now: ends as LOST


@dataclass(frozen=True, slots=True)
class Delivered:
    """The queue brought an attempt."""

    attempt_id: str
    at: float


@dataclass(frozen=True, slots=True)
class StopAsked:
    """A message or an answer of the gateway says that the owner wants it stopped."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class Allocation:
    """What the pool keeps for an attempt now, of what its task asked for."""

    memory_mb: int
    cpu_score: int


@dataclass(frozen=True, slots=True)
class AssignedListing:
    """What the assigned list says of an attempt."""

    stop: bool = False
    allocation: Allocation | None = None  # None: it does not say


@dataclass(frozen=True, slots=True)
class AssignedRead:
    """A report was written and the assigned list read. `sent_at`: when the report was on its way."""

    assigned: Mapping[str, AssignedListing]
    at: float
    sent_at: float


@dataclass(frozen=True, slots=True)
class PoolAnswered:
    """A gateway says what the pool's database has for this node; that is the truth. The call began at
    `sent_at`; `heard`: the pool will not take the node for silent since then."""

    assigned: Mapping[str, AssignedListing]
    at: float
    sent_at: float
    heard: bool


@dataclass(frozen=True, slots=True)
class Contact:
    """The gateway answered."""

    at: float


@dataclass(frozen=True, slots=True)
class Tick:
    at: float


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    attempt_id: str
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The run is over; its end is still to be acknowledged."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class AttemptStale:
    """The gateway says that the attempt is not this node's any more."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class AttemptSettled:
    """Nothing of the attempt is left to do."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class PickedUp:
    """An earlier life of the agent left this attempt behind; its end is being sent."""

    attempt_id: str
    at: float


@dataclass(frozen=True, slots=True)
class DrainBegan:
    pass


@dataclass(frozen=True, slots=True)
class GraceOver:
    pass


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another agent was started with this node's id: nothing here is this agent's business any more."""


@dataclass(frozen=True, slots=True)
class EngineTold:
    """Why nothing can be run here now; empty when it can be."""

    problem: str


Event = (
    Delivered
    | StopAsked
    | AssignedRead
    | PoolAnswered
    | Contact
    | Tick
    | AttemptStarted
    | AttemptEnded
    | AttemptStale
    | AttemptSettled
    | PickedUp
    | DrainBegan
    | GraceOver
    | Replaced
    | EngineTold
)


@dataclass(frozen=True, slots=True)
class StartAttempt:
    attempt_id: str


@dataclass(frozen=True, slots=True)
class RefuseAttempt:
    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StopAttempt:
    attempt_id: str
    cause: StopCause


@dataclass(frozen=True, slots=True)
class ResizeAttempt:
    attempt_id: str
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class RestartConsumer:
    """Nothing was delivered while work was assigned."""


@dataclass(frozen=True, slots=True)
class AskPool:
    """A gateway is to say what of all this is still this node's: see PoolAnswered."""


Instruction = StartAttempt | RefuseAttempt | StopAttempt | ResizeAttempt | RestartConsumer | AskPool


@dataclass(slots=True)
class _Held:
    since: float
    phase: Phase
    stop: StopCause | None = None
    unlisted_since: float | None = None
    exclusive: bool = False
    allocation: Allocation | None = None


@dataclass(slots=True)
class AgentState:
    limits: AgentLimits
    contact: PoolContact
    draining: bool = False
    engine_problem: str = ""
    _held: dict[str, _Held] = field(default_factory=dict)
    _gone: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _unknown_since: dict[str, float] = field(default_factory=dict)
    _last_delivery: float = float("-inf")
    _last_restart: float = float("-inf")

    def handle(self, event: Event) -> list[Instruction]:  # noqa: C901, PLR0911, PLR0912  one line an event
        match event:
            case Delivered(attempt_id, at):
                self._last_delivery = at
                return self._begin(attempt_id, at)
            case StopAsked(attempt_id):
                return self._stop(attempt_id, StopCause.OWNER)
            case AssignedRead(assigned, at, sent_at):
                return [*self._contact(at, heard_at=sent_at), *self._compare(assigned, at)]
            case PoolAnswered(assigned, at, sent_at, heard):
                return self._told(assigned, at, sent_at, heard=heard)
            case Contact(at):
                return self._contact(at)
            case Tick(at):
                return self._check_lease(at)
            case AttemptStarted(attempt_id, exclusive):
                self._enter(attempt_id, Phase.RUNNING, exclusive=exclusive)
            case AttemptEnded(attempt_id):
                self._enter(attempt_id, Phase.FINISHING)
            case AttemptStale(attempt_id):
                return self._stop(attempt_id, StopCause.AWAY)
            case AttemptSettled(attempt_id):
                self._settle(attempt_id)
            case PickedUp(attempt_id, at):
                self._held[attempt_id] = _Held(at, Phase.FINISHING)
            case DrainBegan():
                self.draining = True
            case GraceOver():
                return self._stop_all(StopCause.SHUTDOWN)
            case Replaced():
                self.draining = True
                return self._stop_all(StopCause.REPLACED)
            case EngineTold(problem):
                self.engine_problem = problem
        return []

    def held(self) -> dict[str, Phase]:
        return {attempt_id: held.phase for attempt_id, held in self._held.items()}

    def _begin(self, attempt_id: str, at: float) -> list[Instruction]:
        self._unknown_since.pop(attempt_id, None)
        if attempt_id in self._held or attempt_id in self._gone:
            return []
        reason = self._why_not()
        if reason:
            self._held[attempt_id] = _Held(at, Phase.FINISHING)
            return [RefuseAttempt(attempt_id, reason)]
        self._held[attempt_id] = _Held(at, Phase.STARTING)
        return [StartAttempt(attempt_id)]

    def _why_not(self) -> str:
        """Why nothing is begun now; empty when it is."""
        if self.draining:
            return "the node is shutting down"
        if self.engine_problem:
            return self.engine_problem
        return "the node has no room for more tasks" if len(self._held) >= self.limits.max_held else ""

    def _contact(self, at: float, *, heard_at: float = float("-inf")) -> list[Instruction]:
        # First: a frozen process may notice the contact before it notices how long there was none.
        instructions = self._check_lease(at)
        if self.contact.may_be_given_away(self.limits, at):
            instructions += self._ask()
        self.contact.renew(at, heard_at)
        return instructions

    def _ask(self) -> list[Instruction]:
        has_work = any(held.phase is not Phase.FINISHING for held in self._held.values())
        return [AskPool()] if has_work and self.limits.grace_seconds else []

    def _check_lease(self, at: float) -> list[Instruction]:
        return [
            step
            for attempt_id, held in list(self._held.items())
            if self.contact.is_over(self.limits, at, exclusive=held.exclusive)
            for step in self._stop(attempt_id, StopCause.LEASE)
        ]

    def _told(
        self, assigned: Mapping[str, AssignedListing], at: float, sent_at: float, *, heard: bool
    ) -> list[Instruction]:
        """The database's word: what is not in it and was here when it was asked is nobody's here any more."""
        instructions = self._check_lease(at)
        self.contact.renew(at, sent_at if heard else float("-inf"))
        instructions += self._compare_listed(assigned, at)
        for attempt_id in self._held.keys() - assigned.keys():
            if self._held[attempt_id].since < sent_at:
                instructions += self._stop(attempt_id, StopCause.AWAY)
        return instructions

    def _compare(self, assigned: Mapping[str, AssignedListing], at: float) -> list[Instruction]:
        instructions = self._compare_listed(assigned, at)
        for attempt_id in self._held.keys() - assigned.keys():
            instructions += self._unlisted(attempt_id, at)
        return instructions

    def _compare_listed(self, assigned: Mapping[str, AssignedListing], at: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        for attempt_id, listing in assigned.items():
            held = self._held.get(attempt_id)
            if held is not None:
                held.unlisted_since = None
                if listing.stop:
                    instructions += self._stop(attempt_id, StopCause.OWNER)
                instructions += self._fit(attempt_id, held, listing.allocation)
            elif attempt_id not in self._gone:
                instructions += self._consider(attempt_id, at)
        for attempt_id in self._unknown_since.keys() - assigned.keys():
            del self._unknown_since[attempt_id]
        return instructions

    def _fit(self, attempt_id: str, held: _Held, allocation: Allocation | None) -> list[Instruction]:
        """A run begins with all that its task asked for; later changes are passed on."""
        if held.allocation is None:
            held.allocation = allocation
        if allocation in {None, held.allocation} or held.stop is not None or held.phase is not Phase.RUNNING:
            return []
        held.allocation = allocation
        return [] if allocation is None else [ResizeAttempt(attempt_id, allocation)]

    def _consider(self, attempt_id: str, at: float) -> list[Instruction]:
        """Listed, and never delivered. The message is probably on its way, or it is lost."""
        if self.draining or self.engine_problem:
            return self._begin(attempt_id, at)
        since = self._unknown_since.setdefault(attempt_id, at)
        if at - since <= UNDELIVERED_SECONDS:
            return []
        instructions = self._begin(attempt_id, at)
        if self._last_delivery < since and at - self._last_restart > UNDELIVERED_SECONDS:
            self._last_restart = at
            instructions.append(RestartConsumer())
        return instructions

    def _unlisted(self, attempt_id: str, at: float) -> list[Instruction]:
        """Held, and not listed: given away, unless the list is to be written again. The database knows."""
        held = self._held[attempt_id]
        if held.phase is Phase.FINISHING:
            return []
        if held.unlisted_since is None:
            held.unlisted_since = at
        patience = _PERIODS_OF_PATIENCE * self.limits.report_period_seconds
        if at - max(held.unlisted_since, held.since) < patience:
            return []
        if not self.limits.grace_seconds:
            return self._stop(attempt_id, StopCause.AWAY)
        held.unlisted_since = at  # and asked again after another while
        return self._ask() if held.stop is None else []

    def _stop(self, attempt_id: str, cause: StopCause) -> list[Instruction]:
        held = self._held.get(attempt_id)
        if held is None or held.stop is not None or held.phase is Phase.FINISHING:
            return []
        held.stop = cause
        return [StopAttempt(attempt_id, cause)]

    def _stop_all(self, cause: StopCause) -> list[Instruction]:
        return [step for attempt_id in list(self._held) for step in self._stop(attempt_id, cause)]

    def _enter(self, attempt_id: str, phase: Phase, *, exclusive: bool = False) -> None:
        if attempt_id in self._held:
            self._held[attempt_id].phase, self._held[attempt_id].exclusive = phase, exclusive

    def _settle(self, attempt_id: str) -> None:
        self._held.pop(attempt_id, None)
        self._gone[attempt_id] = None
        while len(self._gone) > _MAX_GONE:
            self._gone.popitem(last=False)
