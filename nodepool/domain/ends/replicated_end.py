"""A task that a user wants run several times: what follows when one of its runs has ended. Pure.

More runs, or the task's own end with its money. How votes are counted is in `domain/trust/voting.py`, how
long the pool waits for one in `domain/trust/replication.py`. Asked again, it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodepool.domain import ids
from nodepool.domain.ends.effects import EndDecision, FamilyEffects, ParentEnd, RunResult
from nodepool.domain.ends.task_runs import NOT_NEEDED, VERDICTS, TaskFamily, TaskRun, as_replica
from nodepool.domain.money import ledger
from nodepool.domain.money.settlement import Provider, settle
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.domain.tasks.states import (
    FINAL_TASK_STATES,
    AttemptState,
    Outcome,
    TaskState,
    Verification,
    check_task_transition,
)
from nodepool.domain.trust.audits import WATCHED
from nodepool.domain.trust.provisional import AddedRun
from nodepool.domain.trust.replication import Next, Step, next_step
from nodepool.domain.trust.voting import Count, Finding, Verdict

_STOPPED_BY_OWNER = because(ReasonCode.STOPPED)


def next_of(family: TaskFamily, now: float) -> Next:
    runs = [as_replica(run) for run in family.runs]
    return next_step(runs, replicas=family.parent.replicas, now=now, others=family.others)


def is_due(family: TaskFamily, now: float) -> bool:
    """Whether `follow_up` would change something."""
    parent, runs = family.parent, family.runs
    if parent.state in FINAL_TASK_STATES:
        return False
    if parent.stop_requested:
        live = [run for run in runs if run.is_open]
        return not live or any(not run.stop_requested for run in live)
    return next_of(family, now).step is not Step.WAIT


def follow_up(family: TaskFamily, decision: EndDecision) -> None:
    parent = family.parent
    decision.follow(parent.id)
    if parent.state in FINAL_TASK_STATES:
        return
    if parent.stop_requested:
        _stopped(family, decision)
        return
    step = next_of(family, decision.now)
    if step.step is Step.ADD:
        decision.follow(parent.id, added=more_runs(family, step.add))
    elif step.step is Step.END:
        _end(family, step, decision)


def never_ran(family: TaskFamily, decision: EndDecision) -> None:
    """The task was stopped while it waited: its runs have nothing to wait for."""
    parent = family.parent
    decision.family = FamilyEffects(task_id=parent.id, dropped=parent.reason)
    decision.follow(parent.id, stopped=live_attempts(family.runs), ended=True)


def more_runs(family: TaskFamily, count: int) -> list[AddedRun]:
    parent = family.parent
    first = max((ids.run_number(run.id) for run in family.runs), default=0) + 1
    return [
        AddedRun(ids.run_id(parent.id, number), parent.tier, parent.region)
        for number in range(first, first + count)
    ]


def live_attempts(runs: Sequence[TaskRun]) -> list[tuple[str, str]]:
    """(node, attempt) of those that are on a node."""
    return [(run.node_id, run.attempt_id) for run in runs if run.is_open and run.state != TaskState.QUEUED]


def result_of(run: TaskRun | None) -> RunResult | None:
    if run is None:
        return None
    return RunResult(
        exit_code=run.exit_code,
        result_bytes=run.result_bytes,
        result_attempt=run.result_attempt,
        node_id=run.node_id,
        digest=run.result_digest,
    )


def _end(family: TaskFamily, step: Next, decision: EndDecision) -> None:
    parent, runs = family.parent, family.runs
    count = step.count or Count(verdict=Verdict.UNDECIDED)
    voters = [run for run in runs if run.id in count.findings]
    agreed = count.verdict is Verdict.AGREED
    best = next((run for run in voters if not agreed or run.result_digest == count.digest), None)
    state = best.state if agreed and best is not None else TaskState.FAILED
    check_task_transition(parent.state, state)
    decision.family = FamilyEffects(
        task_id=parent.id,
        verdicts=tuple((run.id, VERDICTS[count.findings[run.id]]) for run in voters),
        ended=ParentEnd(
            before=parent.state,
            state=state,
            reason=best.reason if agreed and best is not None else _why_undecided(runs, voters),
            verification=Verification.AGREED if agreed else Verification.DISPUTED,
            digest=count.digest,
            result=result_of(best),
        ),
        dropped=NOT_NEEDED,
    )
    _pay(family, [run for run in voters if count.findings[run.id] is not Finding.DIFFERED], decision)
    # Who ordered these runs may have chosen who agrees with whom: they move no score and no record. A node
    # that they refute is looked at by the pool itself.
    for run in voters:
        if count.findings[run.id] is Finding.DIFFERED:
            decision.watch(run.node_id, WATCHED)
    decision.follow(parent.id, stopped=live_attempts(runs), ended=True)


def _stopped(family: TaskFamily, decision: EndDecision) -> None:
    """Its owner asked for its end: when no run is on a node any more, that is its end."""
    parent, runs = family.parent, family.runs
    live = live_attempts(runs)
    ended = None
    if not live:
        ran = [run for run in runs if run.attempt_state in {AttemptState.FINISHED, AttemptState.STOPPED}]
        best = next((run for run in ran if run.result_attempt), None)
        check_task_transition(parent.state, TaskState.STOPPED)
        ended = ParentEnd(
            before=parent.state,
            state=TaskState.STOPPED,
            reason=_STOPPED_BY_OWNER,
            result=result_of(best),
        )
        _pay(family, ran, decision)
    decision.family = FamilyEffects(task_id=parent.id, ended=ended, dropped=_STOPPED_BY_OWNER)
    decision.follow(parent.id, stopped=live, ended=not live)


def _why_undecided(runs: Sequence[TaskRun], voters: Sequence[TaskRun]) -> Reason:
    if len(voters) > 1:
        different = len({run.result_digest for run in voters})
        return because(ReasonCode.RUNS_DIFFER, runs=len(voters), results=different)
    voted = {run.id for run in voters}
    given_up = next((run.reason for run in runs if run.reason and run.id not in voted), None)
    if given_up is None:
        return because(ReasonCode.UNVERIFIED)
    return because(ReasonCode.UNVERIFIED_AFTER, last=given_up)


def _pay(family: TaskFamily, runs: Sequence[TaskRun], decision: EndDecision) -> None:
    """Each of these runs its started minutes, from what the task holds; the rest goes back."""
    if family.hold is None:
        return
    parent, providers, minutes = family.parent, [], 0
    for run in runs:
        stopped = run.attempt_state is AttemptState.STOPPED
        outcome = Outcome.STOPPED if stopped else Outcome.SUCCEEDED
        ended = run.attempt_finished_at or decision.now
        due = ledger.minutes_to_pay(
            outcome, run.attempt_started_at, ended, parent.max_minutes, ran=run.attempt_run_seconds
        )
        if due and not run.attempt_idle:
            minutes += due
            providers.append(Provider(run.provider, share=due, attempt_id=run.attempt_id))
    decision.settlement = settle(family.hold, providers, minutes, parent.id)
