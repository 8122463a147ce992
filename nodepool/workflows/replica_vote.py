"""What follows the end of a run of a task that has several: more runs, or the task's own end with its money.

Functions of a connection, called in the transaction that ended the run, and by the sweep for what was left
behind. Asked again, they change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, update

from nodepool.domain import ids
from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import (
    FINAL_TASK_STATES,
    AttemptState,
    Outcome,
    RunVerdict,
    TaskState,
    Verification,
    check_task_transition,
)
from nodepool.domain.trust.audits import WATCHED, Rules
from nodepool.domain.trust.replication import Next, ReplicaRun, Step, next_step
from nodepool.domain.trust.voting import Count, Finding, Verdict, Vote
from nodepool.stores.sql import replicas as replica_store, tasks as task_store, verification_records
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.api import Provider
from nodepool.stores.sql.tables import tasks
from nodepool.stores.sql.task_rows import OwnedTask

NOT_NEEDED = "the other runs of the task have decided"
VERDICTS = {
    Finding.VERIFIED: RunVerdict.AGREED,
    Finding.DIFFERED: RunVerdict.DIFFERS,
    Finding.UNDECIDED: RunVerdict.NONE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """What is decided with, beside what SQL knows.

    `start_score` is a newcomer's; tickets are 0 <= ticket < 1, from a source that no node can foresee.
    """

    now: float
    start_score: int
    allow_pushed: bool
    rules: Rules
    ticket: float
    spot_ticket: float = 1.0  # alike: whether a result is checked that nobody asked to check


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that waits, and the partition of its queue."""

    task_id: str
    tier: str
    region: str


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What is to be told outside SQL: runs that wait, and (node, attempt) of those to be stopped."""

    task: Row[Any] | OwnedTask
    added: tuple[Waiting, ...] = ()
    stopped: tuple[tuple[str, str], ...] = ()
    ended: bool = False
    tiers_changed: frozenset[int] = frozenset()  # owners whose score opens another tier now
    paused: frozenset[str] = frozenset()  # nodes that get no low-trust work for a while


def follow_up(connection: Connection, parent: Row[Any], deciding: Deciding) -> FollowUp:
    """`parent` is locked (see replica_store.lock), and has several runs."""
    now = deciding.now
    if parent.state in FINAL_TASK_STATES:
        return FollowUp(parent)
    runs = replica_store.runs_of(connection, parent.id)
    if parent.stop_requested:
        return _stopped(connection, parent, runs, now)
    step = _next(connection, parent, runs, deciding)
    if step.step is Step.ADD:
        return FollowUp(parent, added=add(connection, parent, step.add, runs, now))
    if step.step is Step.END:
        return _end(connection, parent, runs, step, deciding)
    return FollowUp(parent)


def add(
    connection: Connection, parent: Row[Any], count: int, runs: Sequence[Row[Any]], now: float
) -> tuple[Waiting, ...]:
    """So many runs more."""
    first = max((ids.run_number(run.id) for run in runs), default=0) + 1
    added = replica_store.add_runs(connection, parent._mapping, range(first, first + count), now)
    return tuple(Waiting(task_id, parent.tier, parent.region) for task_id in added)


def stop(connection: Connection, task_id: str, deciding: Deciding) -> tuple[OwnedTask, FollowUp | None]:
    """task_store.request_stop, and of a task with several runs the stop of all of them."""
    now = deciding.now
    before = task_store.request_stop(connection, task_id, now)
    if before.replicas == 1 or before.state in FINAL_TASK_STATES:
        return before, None
    parent = replica_store.lock(connection, task_id)
    if parent is None or parent.state in FINAL_TASK_STATES:  # no run of it had begun
        live = replica_store.drop_open(connection, task_id, (parent or before).reason, now)
        return before, FollowUp(parent or before, stopped=_attempts(live), ended=True)
    return before, follow_up(connection, parent, deciding)


def is_due(connection: Connection, parent_id: str, deciding: Deciding) -> bool:
    """Whether follow_up would change something. Locks nothing."""
    parent = task_store.find_or_none(connection, parent_id)
    if parent is None or parent.state in FINAL_TASK_STATES:
        return False
    runs = replica_store.runs_of(connection, parent_id)
    if parent.stop_requested:
        return any(not run.stop_requested for run in runs if run.state not in FINAL_TASK_STATES) or all(
            run.state in FINAL_TASK_STATES for run in runs
        )
    return _next(connection, parent, runs, deciding).step is not Step.WAIT


def _next(
    connection: Connection, parent: Row[Any] | OwnedTask, runs: Sequence[Row[Any]], deciding: Deciding
) -> Next:
    owners = {parent.owner_id, *(run.provider_id for run in runs if run.provider_id is not None)}
    others = replica_store.somebody_else(connection, owners, allow_pushed=deciding.allow_pushed)
    return next_step([run_of(run) for run in runs], replicas=parent.replicas, now=deciding.now, others=others)


def run_of(row: Row[Any]) -> ReplicaRun:
    voted = row.attempt_state == AttemptState.FINISHED and bool(row.result_digest)
    started, ended = row.attempt_started_at or 0.0, row.attempt_finished_at or 0.0
    return ReplicaRun(
        state=TaskState(row.state),
        vote=vote_of(row) if voted else None,
        ended_at=ended,
        seconds=max(0.0, ended - started),
        given_up=row.state == TaskState.FAILED and row.attempt_state != AttemptState.FINISHED,
    )


def vote_of(row: Row[Any]) -> Vote:
    return Vote(
        run_id=row.id,
        owner_id=row.provider_id,
        digest=row.result_digest,
        trusted=verification_records.is_trusted_row(row),
    )


def _end(
    connection: Connection,
    parent: Row[Any],
    runs: Sequence[Row[Any]],
    step: Next,
    deciding: Deciding,
) -> FollowUp:
    now = deciding.now
    count = step.count or Count(verdict=Verdict.UNDECIDED)
    voters = [run for run in runs if run.id in count.findings]
    agreed = count.verdict is Verdict.AGREED
    best = next((run for run in voters if not agreed or run.result_digest == count.digest), None)
    state = TaskState(best.state) if agreed and best is not None else TaskState.FAILED
    reason = best.reason if agreed and best is not None else _why_undecided(runs, voters)
    check_task_transition(TaskState(parent.state), state)
    connection.execute(
        update(tasks)
        .where(tasks.c.id == parent.id, tasks.c.state == parent.state)
        .values(
            state=state,
            reason=reason,
            verification=Verification.AGREED if agreed else Verification.DISPUTED,
            result_digest=count.digest,
            finished_at=now,
            updated_at=now,
            **_result_of(best),
        )
    )
    for run in voters:
        verdict = VERDICTS[count.findings[run.id]]
        connection.execute(update(tasks).where(tasks.c.id == run.id).values(verification=verdict))
    _pay(connection, parent, [run for run in voters if count.findings[run.id] is not Finding.DIFFERED], now)
    stopped = replica_store.drop_open(connection, parent.id, NOT_NEEDED, now)
    # Who ordered these runs may have chosen who agrees with whom: they move no score and no record. A node
    # that they refute is looked at by the pool itself.
    for run in voters:
        if count.findings[run.id] is Finding.DIFFERED:
            verification_records.watch(connection, run.node_id, WATCHED)
    return FollowUp(parent, stopped=_attempts(stopped), ended=True)


def _stopped(connection: Connection, parent: Row[Any], runs: Sequence[Row[Any]], now: float) -> FollowUp:
    """Its owner asked for its end: when no run is on a node any more, that is its end."""
    live = replica_store.drop_open(connection, parent.id, "stopped by its owner", now)
    if live:
        return FollowUp(parent, stopped=_attempts(live))
    ran = [run for run in runs if run.attempt_state in {AttemptState.FINISHED, AttemptState.STOPPED}]
    best = next((run for run in ran if run.result_attempt), None)
    check_task_transition(TaskState(parent.state), TaskState.STOPPED)
    connection.execute(
        update(tasks)
        .where(tasks.c.id == parent.id, tasks.c.state == parent.state)
        .values(
            state=TaskState.STOPPED,
            reason="stopped by its owner",
            finished_at=now,
            updated_at=now,
            **_result_of(best),
        )
    )
    _pay(connection, parent, ran, now)
    return FollowUp(parent, ended=True)


def _result_of(run: Row[Any] | None) -> dict[str, Any]:
    """What the task has of the run whose result is its own."""
    if run is None:
        return {}
    return {
        "exit_code": run.exit_code,
        "result_bytes": run.result_bytes,
        "result_attempt": run.result_attempt,
        "node_id": run.node_id,
    }


def _why_undecided(runs: Sequence[Row[Any]], voters: Sequence[Row[Any]]) -> str:
    if len(voters) > 1:
        different = len({run.result_digest for run in voters})
        return (
            f"its {len(voters)} runs returned {different} different results, and no more owners could be "
            "asked: compare only files that are the same in every run, with compare_outputs"
        )
    given_up = next((run.reason for run in runs if run.reason and run.id not in {it.id for it in voters}), "")
    return f"it could not be verified: {given_up}" if given_up else "it could not be verified"


def _pay(connection: Connection, parent: Row[Any], runs: Sequence[Row[Any]], now: float) -> None:
    """Each of these runs its started minutes, from what the task holds; the rest goes back."""
    providers, minutes = [], 0
    for run in runs:
        stopped = run.attempt_state == AttemptState.STOPPED
        outcome = Outcome.STOPPED if stopped else Outcome.SUCCEEDED
        ended = run.attempt_finished_at or now
        due = ledger.minutes_to_pay(outcome, run.attempt_started_at, ended, parent.max_minutes)
        if due and not run.attempt_idle:
            minutes += due
            providers.append(Provider(run.provider_id, share=due, attempt_id=run.attempt_id))
    ledger_store.settle(connection, parent.id, parent.id, providers, minutes, now)


def _attempts(runs: Sequence[Row[Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((run.node_id, run.attempt_id) for run in runs)
