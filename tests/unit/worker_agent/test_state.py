"""What the agent decides: tables of events and the instructions that come out."""

from __future__ import annotations

import pytest

from worker_agent.lease import AgentLimits, PoolContact
from worker_agent.state import (
    AgentState,
    Allocation,
    AskPool,
    AssignedListing,
    AssignedRead,
    AttemptEnded,
    AttemptSettled,
    AttemptStale,
    AttemptStarted,
    Contact,
    Delivered,
    DrainBegan,
    EngineTold,
    Event,
    GraceOver,
    Instruction,
    Phase,
    PickedUp,
    PoolAnswered,
    RefuseAttempt,
    Replaced,
    ResizeAttempt,
    RestartConsumer,
    StartAttempt,
    StopAsked,
    StopAttempt,
    StopCause,
    Tick,
)

LIMITS = AgentLimits(lease_seconds=12.0, grace_seconds=600.0, report_period_seconds=3.0, max_held=3)
# Of a pool of a version before there was a grace.
OLD_LIMITS = AgentLimits(lease_seconds=12.0, grace_seconds=0.0, report_period_seconds=3.0, max_held=3)
A, B, C, D = "a:1", "b:1", "c:1", "d:1"
RUNS_A = (Delivered(A, 0.0), AttemptStarted(A))
RUNS_ALONE = (Delivered(A, 0.0), AttemptStarted(A, exclusive=True))
REFUSED = "the node is shutting down"
NO_ENGINE = "the container engine does not answer"
FULL = "the node has no room for more tasks"


def read(at: float, *listed: str, stop: str = "") -> AssignedRead:
    return AssignedRead({attempt_id: AssignedListing(attempt_id == stop) for attempt_id in listed}, at, at)


def told(at: float, *listed: str, asked: float = -1.0, heard: bool = True) -> PoolAnswered:
    """The gateway says that the database has these attempts for this node."""
    listing = {attempt_id: AssignedListing() for attempt_id in listed}
    return PoolAnswered(listing, at, at if asked < 0 else asked, heard)


def kept(at: float, memory_mb: int, *, stop: bool = False) -> AssignedRead:
    """A is listed, and this is kept for it."""
    return AssignedRead({A: AssignedListing(stop, Allocation(memory_mb, 100))}, at, at)


def last_of(events: tuple[Event, ...], limits: AgentLimits = LIMITS) -> list[Instruction]:
    """What the last event brings about."""
    state = AgentState(limits, PoolContact(0.0, 0.0))
    instructions: list[Instruction] = []
    for event in events:
        instructions = state.handle(event)
    return instructions


CASES: dict[str, tuple[tuple[Event, ...], list[Instruction]]] = {
    "what is kept at first is what the run began with": ((*RUNS_A, kept(1.0, 512)), []),
    "the same is kept on": ((*RUNS_A, kept(1.0, 512), kept(2.0, 512)), []),
    "less is kept": (
        (*RUNS_A, kept(1.0, 512), kept(2.0, 64)),
        [ResizeAttempt(A, Allocation(64, 100))],
    ),
    "less is kept, and told once": ((*RUNS_A, kept(1.0, 512), kept(2.0, 64), kept(3.0, 64)), []),
    "all is kept again": (
        (*RUNS_A, kept(1.0, 512), kept(2.0, 64), kept(3.0, 512)),
        [ResizeAttempt(A, Allocation(512, 100))],
    ),
    "a list that does not say what is kept changes nothing": ((*RUNS_A, kept(1.0, 512), read(2.0, A)), []),
    "what changed while it started is told when it runs": (
        (Delivered(A, 0.0), kept(1.0, 512), kept(2.0, 64), AttemptStarted(A), kept(3.0, 64)),
        [ResizeAttempt(A, Allocation(64, 100))],
    ),
    "a run that is being stopped is not resized": (
        (*RUNS_A, kept(1.0, 512), StopAsked(A), kept(2.0, 64)),
        [],
    ),
    "a run that is over is not resized": ((*RUNS_A, kept(1.0, 512), AttemptEnded(A), kept(2.0, 64)), []),
    "a delivered attempt is started": ((Delivered(A, 0.0),), [StartAttempt(A)]),
    "a doubled message does nothing": ((Delivered(A, 0.0), Delivered(A, 1.0)), []),
    "a message for an attempt that is over does nothing": (
        (*RUNS_A, AttemptEnded(A), AttemptSettled(A), Delivered(A, 1.0)),
        [],
    ),
    "an attempt that an earlier life left is not begun again": ((PickedUp(A, 0.0), Delivered(A, 1.0)), []),
    "the next attempt of the same task is started": (
        (*RUNS_A, AttemptSettled(A), Delivered("a:2", 1.0)),
        [StartAttempt("a:2")],
    ),
    "more than the node can hold is refused": (
        (Delivered(A, 0.0), Delivered(B, 0.0), Delivered(C, 0.0), Delivered(D, 0.0)),
        [RefuseAttempt(D, FULL)],
    ),
    "a stop message stops": ((*RUNS_A, StopAsked(A)), [StopAttempt(A, StopCause.OWNER)]),
    "a stop message is performed once": ((*RUNS_A, StopAsked(A), StopAsked(A)), []),
    "a stop for what is not here does nothing": ((StopAsked(A),), []),
    "a stop for what is over does nothing": ((*RUNS_A, AttemptEnded(A), StopAsked(A)), []),
    "the list's stop stops": ((*RUNS_A, read(1.0, A, stop=A)), [StopAttempt(A, StopCause.OWNER)]),
    "a stop before the claim is over stops": (
        (Delivered(A, 0.0), StopAsked(A)),
        [StopAttempt(A, StopCause.OWNER)],
    ),
    "an answer that it is stale drops it": ((*RUNS_A, AttemptStale(A)), [StopAttempt(A, StopCause.AWAY)]),
    "what is listed and never delivered waits a while": ((read(0.0, A), read(9.0, A)), []),
    "what is listed for long and never delivered is started, and the consumer is suspect": (
        (read(0.0, A), read(9.0, A), read(10.5, A)),
        [StartAttempt(A), RestartConsumer()],
    ),
    "a consumer that delivers other work is not suspect": (
        (read(0.0, A), Delivered(B, 5.0), read(9.0, A, B), read(10.5, A, B)),
        [StartAttempt(A)],
    ),
    "the consumer is restarted once for two attempts": (
        (read(0.0, A, B), read(9.0, A, B), read(10.5, A, B)),
        [StartAttempt(A), RestartConsumer(), StartAttempt(B)],
    ),
    "what was off the list meanwhile begins to wait anew": (
        (read(0.0, A), read(6.0), read(7.0, A), read(12.0, A)),
        [],
    ),
    "a message that comes after all is not a second start": (
        (read(0.0, A), read(9.0, A), read(10.5, A), Delivered(A, 11.0)),
        [],
    ),
    "what is listed and over is not begun again": (
        (*RUNS_A, AttemptSettled(A), read(1.0, A), read(10.0, A), read(11.5, A)),
        [],
    ),
    "unlisted once may be a list that is being written again": ((*RUNS_A, read(9.0)), []),
    "unlisted for two periods may be given away: the pool is asked": (
        (*RUNS_A, read(9.0), read(15.0)),
        [AskPool()],
    ),
    "the pool is asked again when it has not answered for two more": (
        (*RUNS_A, read(9.0), read(15.0), read(18.0), read(21.0)),
        [AskPool()],
    ),
    "and not before": ((*RUNS_A, read(9.0), read(15.0), read(18.0)), []),
    "what the database does not have was given away": (
        (*RUNS_A, read(9.0), read(15.0), told(15.1)),
        [StopAttempt(A, StopCause.AWAY)],
    ),
    "what the database has goes on, whatever Redis has forgotten": (
        (*RUNS_A, read(9.0), read(15.0), told(15.1, A)),
        [],
    ),
    "what came after the question is not in its answer": (
        (Delivered(A, 8.0), told(10.0, asked=7.0)),
        [],
    ),
    "an end that is being told is left alone by the answer": ((*RUNS_A, AttemptEnded(A), told(9.0)), []),
    "what only the database lists waits for its message": ((told(1.0, A), told(10.0, A)), []),
    "and is started without it": (
        (told(1.0, A), told(10.0, A), told(11.5, A)),
        [StartAttempt(A), RestartConsumer()],
    ),
    "the answer's stop stops": (
        (*RUNS_A, PoolAnswered({A: AssignedListing(stop=True)}, 1.0, 1.0, heard=True)),
        [StopAttempt(A, StopCause.OWNER)],
    ),
    "listed again in time goes on": ((*RUNS_A, read(9.0), read(12.0, A), read(15.0)), []),
    "a fresh attempt has time to be listed": ((Delivered(A, 8.0), read(8.0), read(11.0)), []),
    "unlisted while its end is told is left alone": ((*RUNS_A, AttemptEnded(A), read(9.0), read(18.0)), []),
    "no contact for the lease is no reason to end a run: it may be the pool that is away": (
        (*RUNS_A, Tick(12.1)),
        [],
    ),
    "within the grace nothing happens": ((*RUNS_A, Tick(600.0)), []),
    "over the grace runs are ended": ((*RUNS_A, Tick(600.1)), [StopAttempt(A, StopCause.LEASE)]),
    "over the grace runs are ended once": ((*RUNS_A, Tick(600.1), Tick(600.6)), []),
    "an answer of the gateway begins the grace anew": ((*RUNS_A, Contact(11.0), Tick(611.0)), []),
    "a report begins the grace anew": ((*RUNS_A, read(11.0, A), Tick(611.0)), []),
    "whoever answers after the lease is asked": ((*RUNS_A, Contact(60.0)), [AskPool()]),
    "also when it is the broker": ((*RUNS_A, read(60.0, A)), [AskPool()]),
    "with nothing running there is nothing to ask": ((*RUNS_A, AttemptEnded(A), Contact(60.0)), []),
    "who answers within the lease is not asked": ((*RUNS_A, Contact(12.0)), []),
    "a contact after a freeze does not hide how long there was none": (
        (*RUNS_A, Contact(601.0)),
        [StopAttempt(A, StopCause.LEASE), AskPool()],
    ),
    "an answer after a freeze does not hide it either": (
        (*RUNS_A, told(601.0, A)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "an exclusive run that is not heard of for the lease is ended": (
        (*RUNS_ALONE, Tick(12.1)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "an exclusive run within the lease goes on": ((*RUNS_ALONE, Tick(12.0)), []),
    "an answer that the pool does not count is nothing for an exclusive run": (
        (*RUNS_ALONE, Contact(11.0), Tick(12.1)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "a report begins the lease of an exclusive run anew": ((*RUNS_ALONE, read(11.0, A), Tick(23.0)), []),
    "so does a gateway that hears it, from when it was called": (
        (*RUNS_ALONE, told(11.0, A, asked=9.0), Tick(21.1)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "but no gateway that cannot": (
        (*RUNS_ALONE, told(11.0, A, heard=False), Tick(12.1)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "an end that waits to be told outlives the lease": ((*RUNS_A, AttemptEnded(A), Tick(660.0)), []),
    "new work after a lost lease is started": (
        (*RUNS_A, Contact(660.0), Delivered(B, 661.0)),
        [StartAttempt(B)],
    ),
    "a draining node refuses what is delivered": (
        (DrainBegan(), Delivered(A, 0.0)),
        [RefuseAttempt(A, REFUSED)],
    ),
    "a draining node refuses at once what is listed": (
        (DrainBegan(), read(0.0, A)),
        [RefuseAttempt(A, REFUSED)],
    ),
    "a draining node lets runs go on": ((*RUNS_A, DrainBegan(), read(3.0, A)), []),
    "when the grace is over runs are handed back": (
        (*RUNS_A, DrainBegan(), GraceOver()),
        [StopAttempt(A, StopCause.SHUTDOWN)],
    ),
    "one that was replaced ends its runs": ((*RUNS_A, Replaced()), [StopAttempt(A, StopCause.REPLACED)]),
    "one that was replaced begins nothing": ((Replaced(), read(0.0, A)), [RefuseAttempt(A, REFUSED)]),
    "without its engine a node refuses what is delivered": (
        (EngineTold(NO_ENGINE), Delivered(A, 0.0)),
        [RefuseAttempt(A, NO_ENGINE)],
    ),
    "without its engine a node refuses at once what is listed": (
        (EngineTold(NO_ENGINE), read(0.0, A)),
        [RefuseAttempt(A, NO_ENGINE)],
    ),
    "with its engine back a node takes work again": (
        (EngineTold(NO_ENGINE), EngineTold(""), Delivered(A, 0.0)),
        [StartAttempt(A)],
    ),
    "what is stopped already keeps its cause": ((*RUNS_A, StopAsked(A), GraceOver()), []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_last_event_brings_about(name: str) -> None:
    events, expected = CASES[name]
    assert last_of(events) == expected


# An older pool says of no grace, knows no ReportAgent, and gives away after the lease.
OLD_CASES: dict[str, tuple[tuple[Event, ...], list[Instruction]]] = {
    "within the lease nothing happens": ((*RUNS_A, Tick(12.0)), []),
    "over the lease runs are ended": ((*RUNS_A, Tick(12.1)), [StopAttempt(A, StopCause.LEASE)]),
    "an answer of the gateway renews the lease": ((*RUNS_A, Contact(11.0), Tick(20.0)), []),
    "a report renews the lease": ((*RUNS_A, read(11.0, A), Tick(20.0)), []),
    "a contact after a freeze does not hide how long there was none": (
        (*RUNS_A, Contact(60.0)),
        [StopAttempt(A, StopCause.LEASE)],
    ),
    "unlisted for two periods is given away": (
        (*RUNS_A, read(9.0), read(15.0)),
        [StopAttempt(A, StopCause.AWAY)],
    ),
}


@pytest.mark.parametrize("name", OLD_CASES)
def test_with_an_older_pool_the_last_event_brings_about(name: str) -> None:
    events, expected = OLD_CASES[name]
    assert last_of(events, OLD_LIMITS) == expected


def test_an_attempt_goes_through_its_phases_and_leaves() -> None:
    state = AgentState(LIMITS, PoolContact(0.0, 0.0))
    seen = []
    for event in (Delivered(A, 0.0), AttemptStarted(A), AttemptEnded(A), AttemptSettled(A)):
        state.handle(event)
        seen.append(state.held().get(A))
    assert seen == [Phase.STARTING, Phase.RUNNING, Phase.FINISHING, None]


def test_what_is_remembered_of_the_past_is_bounded() -> None:
    state = AgentState(LIMITS, PoolContact(0.0, 0.0))
    for number in range(10_000):
        state.handle(Delivered(f"t{number}:1", 0.0))
        state.handle(AttemptSettled(f"t{number}:1"))
        state.handle(read(0.0, f"u{number}:1"))
    assert len(state._gone) < 5000
    assert len(state._unknown_since) == 1


def test_events_of_attempts_that_are_not_held_are_harmless() -> None:
    state = AgentState(LIMITS, PoolContact(0.0, 0.0))
    for event in (AttemptStarted(A), AttemptEnded(A), AttemptStale(A), StopAsked(A), AttemptSettled(A)):
        assert state.handle(event) == []
    assert state.held() == {}
