"""What waits for other tasks goes on, or never runs, once these have ended.

Derived from SQL each time, in short transactions: whoever ends a task looks at what waits for it, and the
sweep looks at all that waits, a page at a time. What one of them leaves half done, the other finds.
Knows neither Redis nor messages: what is to be told is returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nodepool.domain.tasks.dependencies import TASK, NextStep, Unit, what_next
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import TaskKind, TaskState
from nodepool.events.catalogue import TaskEnded
from nodepool.stores.sql import dependencies, flow_inputs
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.task_rows import DependentTask, TaskHint

# Tasks of one transaction, transactions of one unit, and units of one call: the sweep does the rest.
_AT_ONCE, _PIECES, _UNITS = 500, 10, 1000


@dataclass(slots=True)
class Settled:
    """What there is to tell. Of a job's tasks one that waits for a node is enough."""

    released: list[TaskHint] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)  # single tasks


@dataclass(frozen=True, slots=True)
class _Piece:
    released: list[TaskHint]
    stopped: list[DependentTask]
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class Settling:
    """With what it is done. `most_input_bytes`: of results that one run is given."""

    database: Database
    clock: Callable[[], float]
    most_input_bytes: int


def after_task(by: Settling, task_id: str) -> Settled:
    """The task may have ended: whatever waits for it or for its job. Raises UnavailableError."""
    units = by.database.read(lambda c: dependencies.dependents_of(c, task_id))
    return settle(by, units) if units else Settled()


def after_job(by: Settling, job_id: str) -> Settled:
    """Some of the job's tasks may have ended. Raises UnavailableError."""
    units = by.database.read(lambda c: dependencies.dependents_of_job(c, job_id))
    return settle(by, units) if units else Settled()


def settle(by: Settling, units: Iterable[Unit]) -> Settled:
    """These, and what waits for those of them that never run. Raises UnavailableError."""
    database = by.database
    found, left, seen = Settled(), deque(units), set[Unit]()
    while left and len(seen) < _UNITS:
        unit = left.popleft()
        seen.add(unit)
        stopped: list[DependentTask] = []
        for _ in range(_PIECES):
            if database.read(lambda c: what_next(dependencies.needs_of(c, unit))[0]) is NextStep.WAIT:  # noqa: B023
                break
            piece = database.write(lambda c: _piece(c, unit, by), sharing=ledger_store.TOGETHER)  # noqa: B023
            found.released += piece.released if unit.step == TASK else piece.released[:1]
            stopped += piece.stopped
            if piece.is_last:
                break
        if stopped:
            left.extend(_behind(database, unit))
        if unit.step == TASK:
            found.stopped += [task.id for task in stopped]
    return found


def _behind(database: Database, unit: Unit) -> list[Unit]:
    if unit.step == TASK:
        return database.read(lambda c: dependencies.dependents_of(c, unit.id))
    return database.read(lambda c: dependencies.dependents_of_job(c, unit.id))


def _piece(connection: Connection, unit: Unit, by: Settling) -> _Piece:
    now, needs = by.clock(), dependencies.needs_of(connection, unit)
    follows, reason = what_next(needs)
    if follows is NextStep.GO and unit.step >= 0:
        size = flow_inputs.bytes_of_step(connection, unit.id, unit.step)
        if size > by.most_input_bytes:
            limits = {"found_bytes": size, "limit_bytes": by.most_input_bytes}
            follows, reason = NextStep.STOP, because(ReasonCode.INPUTS_TOO_LARGE, **limits)
    if not needs or follows is NextStep.WAIT:
        return _Piece([], [])
    if follows is NextStep.GO:
        released, is_last = dependencies.release(connection, unit, now, _AT_ONCE)
        return _Piece(released, [], is_last)
    stopped, is_last = dependencies.stop(connection, unit, reason, now, _AT_ONCE)
    if unit.step == TASK:
        for task in stopped:
            note(connection, _ended(task))
    return _Piece([], stopped, is_last)


def _ended(task: DependentTask) -> TaskEnded:
    return TaskEnded(
        task=task.id,
        owner_id=task.owner_id,
        kind=TaskKind.USER,
        tier=task.tier,
        region=task.region,
        state=TaskState.STOPPED,
        reason=ReasonCode.NEEDED_FAILED,
    )
