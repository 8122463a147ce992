"""The end of an attempt: what it does to its task, its money, its node and all that waits for it. Pure.

`decide` is the one place that says so, for every kind of end: of a user's task, of one of several runs, of a
check, of a probe; told by an agent, by a node without one, or by the pool itself. It takes facts and gives
effects as data. `to_be_known` says which facts an end needs, so that nobody reads more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nodepool.domain import ids
from nodepool.domain.ends import check_end, node_end, replicated_end
from nodepool.domain.ends.effects import (
    ClosedAttempt,
    Effects,
    EndDecision,
    EndRules,
    MovedTask,
    Tickets,
)
from nodepool.domain.ends.ending_attempt import End, EndingAttempt, EndingNode, EndingTask
from nodepool.domain.ends.node_end import BAD_OUTCOMES
from nodepool.domain.ends.task_runs import TaskFamily
from nodepool.domain.errors import StaleAttemptError, StateConflictError
from nodepool.domain.money import ledger
from nodepool.domain.money.settlement import Hold, HoldEnd, Provider, settle, settle_try
from nodepool.domain.nodes import history
from nodepool.domain.nodes.history import MeasuredRun
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because, told
from nodepool.domain.tasks.retries import shell_code
from nodepool.domain.tasks.states import (
    ATTEMPT_STATE_OF_OUTCOME,
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    AttemptState,
    Outcome,
    TaskKind,
    TaskState,
    check_attempt_transition,
    check_task_transition,
    task_state_after,
)
from nodepool.domain.trust import holding_back
from nodepool.domain.trust.credit_moves import NewChange, Score
from nodepool.domain.trust.provisional import ProvisionalResult, TrustFacts

__all__ = [
    "AttemptEndSnapshot",
    "End",
    "EndRules",
    "EndingAttempt",
    "EndingNode",
    "EndingTask",
    "Tickets",
    "ToBeKnown",
    "decide",
    "to_be_known",
    "with_end",
]

_SECONDS_PER_MINUTE = 60
_BYTES_PER_GIB, _BYTES_PER_MIB = 1 << 30, 1 << 20
# What starting a program takes is more.
_LITTLE_CPU_SECONDS = 1.0
_COMPARED = frozenset({Outcome.SUCCEEDED, Outcome.FAILED})
_TRIED_AGAIN = frozenset({TaskKind.USER, TaskKind.AUDIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEndSnapshot:
    """All that an end is decided on. What `to_be_known` does not ask for is left out."""

    attempt: EndingAttempt
    elsewhere: tuple[MeasuredRun, ...] = ()  # runs of the same package on other nodes
    hold: Hold | None = None  # of the task, where that has no other runs
    others: bool = False  # somebody else has a node that could check the result
    family: TaskFamily | None = None  # of a run: the task that it is one of, with all its runs
    trust: TrustFacts | None = None
    scores: Mapping[int, Score] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToBeKnown:
    """Which facts an end needs beside the attempt itself."""

    elsewhere: bool = False
    family: bool = False  # of a run
    hold: bool = False
    others: bool = False  # then also what it takes to keep the result, where there are others
    found_false: bool = False  # what waits of the node's results
    change: NewChange | None = None  # of the score of the node's owner


def to_be_known(
    attempt: EndingAttempt, end: End, rules: EndRules, now: float, tickets: Tickets, *, is_run: bool
) -> ToBeKnown:
    """`is_run`: the task is one run of another. Raises what `decide` raises for an end that cannot be."""
    if _is_told_before(attempt, end):
        return ToBeKnown()
    state = _state_after(attempt, end, rules, now)
    speed = node_end.counts_for_node(attempt, end) and end.outcome is Outcome.SUCCEEDED
    return ToBeKnown(
        elsewhere=speed and attempt.seconds(end, now) >= history.LEAST_COMPARED_SECONDS,
        family=is_run,
        hold=not is_run and (state in FINAL_TASK_STATES or _is_retried(attempt, end, now)),
        others=not is_run and state in FINAL_TASK_STATES and _is_looked_at(attempt, end, rules, now, tickets),
        found_false=node_end.is_found_idle(attempt, end),
        change=node_end.credit_of_end(attempt, end),
    )


# -- the decision ---------------------------------------------------------------------------------------
def decide(snapshot: AttemptEndSnapshot, end: End, rules: EndRules, now: float, tickets: Tickets) -> Effects:
    """Told again with the same outcome it changes nothing.

    Raises StaleAttemptError for an attempt that is not the current one any more, and StateConflictError for
    one that was never claimed.
    """
    attempt = snapshot.attempt
    if _is_told_before(attempt, end):
        return Effects(now=now, told_before=True)
    closed, moved = _closed(attempt, end, now), _moved(attempt, end, rules, now)
    decision = EndDecision(
        now=now, rules=rules, tickets=tickets, trust=snapshot.trust, scores=snapshot.scores
    )
    family = snapshot.family
    if family is not None:
        # What follows is decided on the runs as this end leaves them.
        family = with_end(family, attempt, end, rules, now)
        follow = replicated_end.follow_up if family.parent.replicas > 1 else check_end.follow_up
        follow(family, decision)
    elif moved.state in FINAL_TASK_STATES:
        _end_single(snapshot, end, decision, tickets)
    elif moved.wait_until:
        moved = _pay_try(snapshot, end, decision, moved)
    if node_end.is_found_idle(attempt, end):
        decision.book.found_false(attempt.node.id, attempt.node.owner_id)
        decision.follow(attempt.task.id if family is None else family.parent.id)
    change = node_end.credit_of_end(attempt, end)
    if change is not None:
        decision.credit([change])
    node_history = node_end.history_after(attempt, end, snapshot.elsewhere, rules, now)
    refusals = node_end.refusals_after(attempt, end, now)
    return replace(decision.effects(), closed=closed, moved=moved, history=node_history, refusals=refusals)


def _is_told_before(attempt: EndingAttempt, end: End) -> bool:
    """Whether the attempt ended before, with this very outcome."""
    task, is_current = attempt.task, attempt.number == attempt.task.attempt_number
    if attempt.state in LIVE_ATTEMPT_STATES:
        if not is_current:
            raise StaleAttemptError
        if attempt.state is AttemptState.ASSIGNED and end.outcome in _COMPARED:
            raise StateConflictError("this attempt was never claimed")
        return False
    if end.outcome in _COMPARED:
        retried = end.outcome is Outcome.FAILED and task.state is TaskState.QUEUED
        same = attempt.state is AttemptState.FINISHED and (task.state == end.outcome.name or retried)
    else:
        # LOST is the pool's word too; a node that says it afterwards is told that it is late.
        same = attempt.state is ATTEMPT_STATE_OF_OUTCOME[end.outcome] and end.outcome is not Outcome.LOST
    if not (is_current and same):
        raise StaleAttemptError
    return True


def _attempts_ended(attempt: EndingAttempt, end: End) -> int:
    return attempt.task.attempts_ended + int(end.counts_against_task)


def _state_after(attempt: EndingAttempt, end: End, rules: EndRules, now: float) -> TaskState:
    return task_state_after(
        end.outcome,
        attempts_ended=_attempts_ended(attempt, end),
        max_attempts=rules.max_attempts,
        stop_requested=attempt.task.stop_requested,
        retried=_is_retried(attempt, end, now),
    )


def _is_retried(attempt: EndingAttempt, end: End, now: float) -> bool:
    """Its own program failed, and its owner wants such an end tried again; a check of its result is given
    as many tries.

    Not where a stranger's node may have done nothing: what nobody can tell from idleness is checked before it
    is paid.
    """
    task = attempt.task
    if end.outcome is not Outcome.FAILED or task.stop_requested or task.kind not in _TRIED_AGAIN:
        return False
    if end.late or (attempt.is_a_strangers and _is_doubtful(attempt, end, now)):
        return False
    if end.blameless:  # its program was never begun
        return False
    at_limit = attempt.paid_seconds(end, now) >= task.max_minutes * _SECONDS_PER_MINUTE
    return task.retry.repeats(shell_code(end.exit_code, at_time_limit=at_limit), task.tries_failed)


def _closed(attempt: EndingAttempt, end: End, now: float) -> ClosedAttempt:
    """The numbers of use are its node's word, and kept within what can be."""
    after = ATTEMPT_STATE_OF_OUTCOME[end.outcome]
    check_attempt_transition(attempt.state, after)
    node = attempt.node
    most_memory = max(node.memory_gb * _BYTES_PER_GIB, attempt.claim.memory_mb * _BYTES_PER_MIB)
    most_cpu = attempt.seconds(end, now) * max(1, node.cpu_cores)
    return ClosedAttempt(
        id=attempt.id,
        before=attempt.state,
        state=after,
        exit_code=end.exit_code,
        reason=end.reason,
        idle=end.idle,
        cpu_seconds=history.believable(end.cpu_seconds, most_cpu),
        peak_memory_bytes=int(history.believable(end.peak_memory_bytes, most_memory)),
        bytes_out=max(0, end.output_bytes + end.result_bytes),
        run_seconds=attempt.paid_seconds(end, now) if attempt.started_at is not None else None,
    )


def _moved(attempt: EndingAttempt, end: End, rules: EndRules, now: float) -> MovedTask:
    task, state = attempt.task, _state_after(attempt, end, rules, now)
    check_task_transition(task.state, state)
    ended, tries_failed = _attempts_ended(attempt, end), _tries_failed(attempt, end)
    is_final, is_retried = state in FINAL_TASK_STATES, _is_retried(attempt, end, now)
    return MovedTask(
        id=task.id,
        before=task.state,
        attempt_number=task.attempt_number,
        state=state,
        reason=_reason(attempt, end, state, is_retried=is_retried),
        attempts_ended=ended,
        tries_failed=tries_failed,
        wait_until=now + task.retry.wait_seconds(tries_failed) if is_retried else 0.0,
        exit_code=end.exit_code if is_final else None,
        digest=end.digest if is_final else "",
        result_bytes=end.result_bytes if is_final and end.has_result else None,
        result_attempt=attempt.id if is_final and end.has_result else "",
        log_bytes=end.log_bytes if is_final else 0,
    )


def _tries_failed(attempt: EndingAttempt, end: End) -> int:
    return attempt.task.tries_failed + int(end.outcome is Outcome.FAILED)


def _reason(attempt: EndingAttempt, end: End, state: TaskState, *, is_retried: bool) -> Reason:
    """Of the task; the attempt keeps the end's own."""
    task, failed = attempt.task, _tries_failed(attempt, end)
    last = end.reason or told(f"exit code {end.exit_code}")
    if is_retried:
        return because(ReasonCode.RETRY, number=failed, tries=task.retry.retries + 1, last=last)
    if state is TaskState.FAILED and end.outcome in BAD_OUTCOMES:
        return because(ReasonCode.GIVEN_UP, attempts=_attempts_ended(attempt, end), last=end.reason)
    if state is TaskState.FAILED and failed > max(1, task.retry.retries):
        return because(ReasonCode.RETRIES_USED, tries=failed, last=last)
    return end.reason


def with_end(family: TaskFamily, attempt: EndingAttempt, end: End, rules: EndRules, now: float) -> TaskFamily:
    """The runs as this end leaves them."""
    closed, moved = _closed(attempt, end, now), _moved(attempt, end, rules, now)
    is_final = moved.state in FINAL_TASK_STATES
    runs = tuple(
        replace(
            run,
            state=moved.state,
            reason=moved.reason,
            node_id=run.node_id if is_final else "",
            exit_code=moved.exit_code if is_final else run.exit_code,
            result_digest=moved.digest if is_final else run.result_digest,
            result_attempt=moved.result_attempt or run.result_attempt,
            result_bytes=run.result_bytes if moved.result_bytes is None else moved.result_bytes,
            attempt_state=closed.state,
            attempt_finished_at=now,
            attempt_run_seconds=closed.run_seconds,
            attempt_idle=end.idle,
        )
        if run.id == attempt.task.id
        else run
        for run in family.runs
    )
    return replace(family, runs=runs)


# -- a task without other runs ----------------------------------------------------------------------------
def _end_single(snapshot: AttemptEndSnapshot, end: End, decision: EndDecision, tickets: Tickets) -> None:
    """It pays what is due: at once, or when its result stands."""
    attempt, now = snapshot.attempt, decision.now
    waits = snapshot.others and _is_looked_at(attempt, end, decision.rules, now, tickets)
    decision.settlement = _settlement(snapshot, end, now, account=ledger.PENDING if waits else "")
    if not waits:
        return
    task, node, book = attempt.task, attempt.node, decision.book
    bill = decision.settlement.bill if decision.settlement is not None else None
    result = ProvisionalResult(
        task_id=task.id,
        attempt_id=attempt.id,
        node_id=node.id,
        owner_id=node.owner_id,
        finished_at=now,
        # Those of nodes above low trust are looked at here and there, and shown meanwhile.
        held_back_until=holding_back.held_back_until(
            book.block_size(node.id, node.owner_id) if node.is_low else 0,
            take_pending=task.take_pending,
            checkers=book.facts.reach.able,
            now=now,
        ),
        tier=task.tier,
        region=task.region,
        waiting_pay=sum(part.payment for part in bill.parts) if bill is not None else 0,
        payer=snapshot.hold.account_id if snapshot.hold is not None else "",
    )
    # One of a trusted node, one that is looked at for a reason of its own, and one that too few could check
    # to say something of others, is checked by itself.
    alone = (
        not node.is_low
        or node.is_watched
        or _is_doubtful(attempt, end, now)
        or not book.facts.reach.raises(decision.rules.audits.least_owners)
    )
    book.keep(result, alone=alone)
    decision.follow(task.id)


def _pay_try(snapshot: AttemptEndSnapshot, end: End, decision: EndDecision, moved: MovedTask) -> MovedTask:
    """It is paid at once, and what that takes out of the hold is set aside again before the next try."""
    attempt, hold = snapshot.attempt, snapshot.hold
    if hold is None:
        return moved
    minutes = _minutes(attempt, end, decision.now)
    paid = settle_try(hold, _providers(attempt, minutes), minutes, attempt.id)
    decision.try_paid = paid
    return replace(moved, hold_again=paid.bill.charged)


def _settlement(snapshot: AttemptEndSnapshot, end: End, now: float, *, account: str) -> HoldEnd | None:
    attempt, hold = snapshot.attempt, snapshot.hold
    if hold is None:
        return None
    minutes = _minutes(attempt, end, now)
    return settle(hold, _providers(attempt, minutes, account), minutes, attempt.id)


def _minutes(attempt: EndingAttempt, end: End, now: float) -> int:
    """That are paid."""
    minutes = ledger.minutes_to_pay(
        end.outcome,
        attempt.started_at,
        now,
        attempt.task.max_minutes,
        ran=attempt.paid_seconds(end, now),
    )
    return 0 if end.idle else minutes


def _providers(attempt: EndingAttempt, minutes: int, account: str = "") -> list[Provider]:
    return [Provider(attempt.node.owner_id, account=account)] if minutes else []


def _is_looked_at(attempt: EndingAttempt, end: End, rules: EndRules, now: float, tickets: Tickets) -> bool:
    """Whether the result is paid only when it stands, where somebody else could check it.

    Not that of a node of the task's own owner: anybody could order their own good name. And not that of a
    task with secrets: a second node would be given them, and by then they may be others.
    """
    task, node = attempt.task, attempt.node
    if (
        end.outcome not in _COMPARED
        or end.idle
        or task.kind is not TaskKind.USER
        or task.pinned_node
        or task.has_secrets
        or not attempt.is_a_strangers
        or rules.audits.audit_share <= 0
        or len(task.id) > ids.MAX_PARENT_ID
    ):
        return False
    return (
        node.is_low
        or node.is_watched
        or tickets.spot < rules.audits.spot_share
        or _is_doubtful(attempt, end, now)
    )


def _is_doubtful(attempt: EndingAttempt, end: End, now: float) -> bool:
    """A run that took all the time that it might and shows little for it, or that the pool had to end."""
    bound = attempt.task.max_minutes * _SECONDS_PER_MINUTE
    at_bound = attempt.seconds(end, now) >= bound
    nothing = end.output_bytes == 0 and end.cpu_seconds < _LITTLE_CPU_SECONDS
    return end.outcome is Outcome.FAILED and (end.late or (at_bound and nothing))
