"""States of a task and of its attempts; the two tables are the only place that says what may follow what."""

from __future__ import annotations

from enum import StrEnum

from nodepool.domain.errors import InvalidTransitionError

MAX_PRIORITY = 9
DEFAULT_PRIORITY = 5


class TaskKind(StrEnum):
    USER = "user"  # somebody's
    REPLICA = "replica"  # one run of its parent, made by the pool
    AUDIT = "audit"  # the same, ordered by the pool to check its parent's result
    PROBE = "probe"  # the pool's own, with a known answer


class JobKind(StrEnum):
    """Tasks that belong together."""

    ARRAY = "array"  # of one package, with other values
    FLOW = "flow"  # one after another


# What the pool orders counts for nobody's limits.
ORDERED_BY_POOL = frozenset({TaskKind.AUDIT, TaskKind.PROBE})


class Verification(StrEnum):
    """Of a task: what the comparison of its runs said. Empty: nothing was compared."""

    PENDING = "pending"
    AGREED = "agreed"  # several runs were asked for, and enough of them agree
    AUDITED = "audited"  # a second run, or the vote on its node's results, confirmed it
    DISPUTED = "disputed"  # runs differed, and what the task has now may not be what it had first


class RunVerdict(StrEnum):
    """Of one run, in the same column."""

    AGREED = "agreed"
    DIFFERS = "differs"
    NONE = "none"  # it says nothing: lost, stopped, or nobody can tell who is right


class LocationMode(StrEnum):
    """What a task's region asks for."""

    STRICT = "strict"  # there or nowhere
    PREFER = "prefer"  # after a while the nearest other region


class TaskState(StrEnum):
    QUEUED = "QUEUED"
    WAITING = "WAITING"  # for other tasks, and not for a node yet
    PLACED = "PLACED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


class AttemptState(StrEnum):
    ASSIGNED = "assigned"
    RUNNING = "running"
    FINISHED = "finished"
    LOST = "lost"
    REFUSED = "refused"
    STOPPED = "stopped"


class Outcome(StrEnum):
    """How an attempt ended, as its node tells it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    REFUSED = "refused"
    LOST = "lost"


FINAL_TASK_STATES = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED})
LIVE_ATTEMPT_STATES = frozenset({AttemptState.ASSIGNED, AttemptState.RUNNING})

TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    # To STOPPED also where what it waits for ended otherwise than it should.
    TaskState.WAITING: frozenset({TaskState.QUEUED, TaskState.STOPPED}),
    # QUEUED -> FAILED: every allowed attempt was lost.
    TaskState.QUEUED: frozenset({TaskState.PLACED, TaskState.STOPPED, TaskState.FAILED}),
    # Back to QUEUED: the attempt was lost or refused, or it failed and is tried again. PLACED -> FAILED: the
    # last allowed one was lost.
    TaskState.PLACED: frozenset({TaskState.RUNNING, TaskState.QUEUED, TaskState.STOPPED, TaskState.FAILED}),
    TaskState.RUNNING: frozenset(
        {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED, TaskState.QUEUED}
    ),
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.STOPPED: frozenset(),
}

ATTEMPT_TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.ASSIGNED: frozenset(
        {AttemptState.RUNNING, AttemptState.LOST, AttemptState.REFUSED, AttemptState.STOPPED}
    ),
    AttemptState.RUNNING: frozenset(
        {AttemptState.FINISHED, AttemptState.LOST, AttemptState.REFUSED, AttemptState.STOPPED}
    ),
    AttemptState.FINISHED: frozenset(),
    AttemptState.LOST: frozenset(),
    AttemptState.REFUSED: frozenset(),
    AttemptState.STOPPED: frozenset(),
}

ATTEMPT_STATE_OF_OUTCOME = {
    Outcome.SUCCEEDED: AttemptState.FINISHED,
    Outcome.FAILED: AttemptState.FINISHED,
    Outcome.STOPPED: AttemptState.STOPPED,
    Outcome.REFUSED: AttemptState.REFUSED,
    Outcome.LOST: AttemptState.LOST,
}


def check_task_transition(before: TaskState, after: TaskState) -> None:
    if after not in TASK_TRANSITIONS[before]:
        raise InvalidTransitionError(f"a task cannot go from {before} to {after}")


def check_attempt_transition(before: AttemptState, after: AttemptState) -> None:
    if after not in ATTEMPT_TRANSITIONS[before]:
        raise InvalidTransitionError(f"an attempt cannot go from {before} to {after}")


def task_state_after(
    outcome: Outcome, *, attempts_ended: int, max_attempts: int, stop_requested: bool, retried: bool = False
) -> TaskState:
    """The task's next state when its attempt ended so.

    `attempts_ended` counts the lost attempts, this one included when it is one. `retried`: where it failed by
    itself, its owner wants it tried again.
    """
    if outcome is Outcome.SUCCEEDED:
        return TaskState.SUCCEEDED
    if outcome is Outcome.STOPPED or (stop_requested and outcome in {Outcome.LOST, Outcome.REFUSED}):
        return TaskState.STOPPED
    if outcome is Outcome.FAILED:
        return TaskState.QUEUED if retried and not stop_requested else TaskState.FAILED
    return TaskState.FAILED if attempts_ended >= max_attempts else TaskState.QUEUED
