"""What was seen of a pool while it was broken: observations, in seconds of one monotonic clock. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Within so long of the end of any fault some task starts, and room of what has ended is free.
BOUND_SECONDS = 5.0
# Within so long everybody notices a line that is there but dead.
NOTICED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """From when something was broken until it was whole again; `ended` includes what `plan.Kind.lasts` says.

    `blames`: the node that failed itself, and may lose its runs and its owner's credit for it.
    """

    name: str
    began: float
    ended: float
    blames: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """The machine itself stood still for whoever watched: nothing can be said of these seconds."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Call:
    """What a user was told. `error`: the client's code for it, empty where it went well."""

    name: str
    began: float
    ended: float
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """As its owner and SQL have it in the end. Times of what has not happened are None.

    `output_token`: what the run calls itself in its output, `result_token` in its result.
    """

    task_id: str
    accepted: float
    state: str = ""
    ended: float | None = None
    output_token: str = ""
    result_token: str = ""
    # Final states that it was seen in, one after the other.
    ends: tuple[str, ...] = ()
    payments: int = 0
    holds_open: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row, as SQL had it when it was looked at."""

    attempt_id: str
    task_id: str
    number: int
    node_id: str
    seen: float
    state: str
    ended: float | None = None
    # When Redis was seen to keep room for it after its end.
    listed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Processes of one attempt on its node's machine, from the first look that saw one to the last.

    An attempt whose processes were gone for a while and came again has two runs.
    """

    attempt_id: str
    node_id: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `waiting`: tasks without a node, None where SQL was away; `running`: attempts with a living
    process on each node; `ready`: nodes whose agents were there; `crowd`: how many processes
    of the whole machine wanted each of its processors."""

    at: float
    waiting: int | None
    running: Mapping[str, int]
    ready: frozenset[str]
    crowd: float = 1.0


@dataclass(frozen=True, slots=True)
class CreditChange:
    """`delta` points for the node's owner, for what became of the task."""

    node_id: str
    task_id: str
    delta: int
    seen: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All of one run. `slots`: how many tasks each node takes at once; `calm_until`: when all was over."""

    began: float
    reference_until: float
    calm_until: float
    slots: Mapping[str, int]
    faults: tuple[Fault, ...] = ()
    pauses: tuple[Pause, ...] = ()
    samples: tuple[Sample, ...] = ()
    tasks: tuple[Task, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    runs: tuple[Run, ...] = ()
    calls: tuple[Call, ...] = ()
    credit: tuple[CreditChange, ...] = ()
    # Nodes that were given one task at a time, because they had failed several times in a row.
    on_probation: tuple[str, ...] = ()
    ledger_problems: tuple[str, ...] = ()
    # Processes and containers that were there when all parts had stopped.
    leftovers: tuple[str, ...] = ()


def window_end(history: History, number: int) -> float:
    """Until when the calm after this fault lasted."""
    later = [fault.began for fault in history.faults if fault.began > history.faults[number].ended]
    return min(later, default=history.calm_until)


def disturbed(history: History, at: float, after: float) -> bool:
    """Whether something was broken then, or had been within `after` seconds before."""
    return any(it.began <= at <= it.ended + after for it in (*history.faults, *history.pauses))


def due(history: History, since: float, seconds: float) -> float:
    """By when something that is to be done within `seconds` has to be done: faults and pauses meanwhile
    begin the time anew when they end."""
    deadline = since + seconds
    disturbances = [*history.faults, *history.pauses]
    for each in sorted(disturbances, key=lambda it: it.began):
        if each.began <= deadline:
            deadline = max(deadline, each.ended + seconds)
    return deadline
