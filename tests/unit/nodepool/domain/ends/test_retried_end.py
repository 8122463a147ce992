"""What the end of a try does whose task is tried again: without a database, in tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodepool.domain.ends.attempt_end import (
    AttemptEndSnapshot,
    End,
    EndingAttempt,
    EndingNode,
    EndingTask,
    EndRules,
    Tickets,
    decide,
    to_be_known,
)
from nodepool.domain.ends.effects import Effects, MovedTask
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily, TaskRun
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, HoldState
from nodepool.domain.money.settlement import Hold
from nodepool.domain.tasks.reasons import ReasonCode, told
from nodepool.domain.tasks.retries import RetryRules
from nodepool.domain.tasks.states import AttemptState, Outcome, TaskKind, TaskState
from nodepool.domain.trust.audits import Reach, Rules
from nodepool.domain.trust.credit_moves import Score
from nodepool.domain.trust.provisional import ProvisionalResult, TrustFacts

NOW, PRICE, MINUTES = 1000.0, 3, 10
USER, OWNER = 1, 2
RULES = EndRules(max_attempts=2, audits=Rules(spot_share=0.5))
# Every result is looked at that may be.
TICKETS = Tickets(spot=0.0)
HOLD = Hold(
    task_id="t",
    account_id=ledger.user_account(USER),
    amount=MINUTES * PRICE,
    price_per_minute=PRICE,
    fee_percent=10,
)
POLICY = RetryRules(retries=2, codes=frozenset({75, 137}), backoff_seconds=30)


def attempt(*, ran: float = 61.0, **task: object) -> EndingAttempt:
    values = {"retry": POLICY, "max_minutes": MINUTES, **task}
    return EndingAttempt(
        id="a",
        task=EndingTask(id="t", owner_id=USER, **values),  # type: ignore[arg-type]
        node=EndingNode(id="n", owner_id=OWNER, cpu_cores=4, cpu_score=4000),
        started_at=NOW - ran,
    )


def failed(exit_code: int | None = 75, **facts: object) -> End:
    values = {"has_result": True, "result_bytes": 5, "output_bytes": 9, "cpu_seconds": 3.0, **facts}
    reason = told(f"the task ended with exit code {exit_code}")
    return End(outcome=Outcome.FAILED, exit_code=exit_code, reason=reason, **values)  # type: ignore[arg-type]


def ended(about: EndingAttempt, end: End, hold: Hold = HOLD) -> Effects:
    """With as much known as such an end asks for."""
    want = to_be_known(about, end, RULES, NOW, TICKETS, is_run=False)
    snapshot = AttemptEndSnapshot(
        attempt=about,
        hold=hold if want.hold else None,
        others=want.others,
        trust=TrustFacts(reach=Reach(9, 9)) if want.others or want.found_false else None,
        scores={OWNER: Score(user_id=OWNER, score=100)} if want.change is not None else {},
    )
    return decide(snapshot, end, RULES, NOW, TICKETS)


def moved(effects: Effects) -> MovedTask:
    assert effects.moved is not None
    return effects.moved


def test_a_try_that_failed_waits_for_the_next_and_blames_nobody() -> None:
    effects = ended(attempt(), failed())
    task, closed = moved(effects), effects.closed
    assert (task.state, task.tries_failed, task.attempts_ended) == (TaskState.QUEUED, 1, 0)
    assert task.wait_until == NOW + 30
    assert str(task.reason) == "try 1 of 3 failed (the task ended with exit code 75); it is tried again"
    # What it returned is not the task's result; the attempt keeps its own end.
    assert (task.exit_code, task.result_attempt, task.result_bytes) == (None, "", None)
    assert closed is not None
    assert (closed.state, closed.exit_code, str(closed.reason)) == (
        AttemptState.FINISHED, 75, "the task ended with exit code 75",
    )  # fmt: skip
    assert (effects.scores, effects.refusals, effects.trust.kept, effects.added) == ((), None, None, ())
    assert effects.history is not None
    assert effects.history.history.bad == 0


def test_it_is_paid_like_any_run_and_the_hold_goes_on() -> None:
    effects = ended(attempt(), failed())
    assert effects.settlement is None
    assert effects.try_paid is not None
    moves = [(it.id, it.kind, it.credit, it.amount) for it in effects.try_paid.entries]
    assert moves == [("pay:a", EntryKind.PAYMENT, "user:2", 6)]
    assert moved(effects).hold_again == 6
    # The last of them ends the hold, of which what was set aside again is a part.
    last = ended(attempt(tries_failed=2), failed(), replace(HOLD, paid=12))
    assert last.try_paid is None
    assert last.settlement is not None
    assert last.settlement.state is HoldState.POSTED
    assert sum(it.amount for it in last.settlement.entries) == HOLD.amount
    # Nothing of the last one, and of those before it something was paid all the same.
    idle = ended(attempt(tries_failed=2), failed(idle=True), replace(HOLD, paid=12))
    assert idle.settlement is not None
    assert (idle.settlement.state, idle.settlement.bill.charged) == (HoldState.POSTED, 0)


def test_the_wait_doubles_with_each_try() -> None:
    assert [moved(ended(attempt(tries_failed=n), failed())).wait_until for n in (0, 1)] == [
        NOW + 30, NOW + 60,
    ]  # fmt: skip


FINAL = {
    "no try is left": (attempt(tries_failed=2), failed(), ReasonCode.RETRIES_USED),
    "another exit code": (attempt(), failed(1), ReasonCode.TOLD),
    "a node that tells no code": (attempt(), failed(None), ReasonCode.TOLD),
    "its longest run": (attempt(ran=600.0), failed(-9), ReasonCode.TOLD),
    "its owner asked for its end": (attempt(stop_requested=True), failed(), ReasonCode.TOLD),
    "the pool had to end it": (attempt(), failed(late=True), ReasonCode.TOLD),
    "one of several runs": (attempt(kind=TaskKind.REPLICA), failed(), ReasonCode.TOLD),
    "nobody asked for another": (attempt(retry=RetryRules()), failed(), ReasonCode.TOLD),
}


@pytest.mark.parametrize("case", FINAL)
def test_what_ends_the_task(case: str) -> None:
    about, end, code = FINAL[case]
    effects = ended(about, end)
    assert (moved(effects).state, moved(effects).wait_until) == (TaskState.FAILED, 0)
    assert moved(effects).reason.code is code
    assert (effects.try_paid, effects.settlement is None) == (None, False)


def test_a_killed_one_is_137_and_a_named_longest_run_124() -> None:
    assert moved(ended(attempt(), failed(-9))).state is TaskState.QUEUED
    about = attempt(ran=600.0, retry=RetryRules(retries=1, codes=frozenset({124})))
    effects = ended(about, failed(-9))
    assert moved(effects).state is TaskState.QUEUED
    assert effects.try_paid is not None
    assert effects.try_paid.bill.charged == MINUTES * PRICE


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED])
def test_what_was_lost_or_refused_uses_up_no_try_and_waits_for_nothing(outcome: Outcome) -> None:
    effects = ended(attempt(tries_failed=1), replace(failed(None), outcome=outcome))
    task = moved(effects)
    assert (task.state, task.tries_failed, task.wait_until) == (TaskState.QUEUED, 1, 0)
    assert task.attempts_ended == (outcome is Outcome.LOST)
    assert (effects.try_paid, effects.settlement) == (None, None)


def test_max_attempts_goes_on_counting_what_was_lost() -> None:
    task = moved(
        ended(attempt(tries_failed=1, attempts_ended=1), replace(failed(None), outcome=Outcome.LOST))
    )
    assert (task.state, task.reason.code) == (TaskState.FAILED, ReasonCode.GIVEN_UP)


def test_a_success_after_failed_tries_is_a_success() -> None:
    end = replace(failed(0), outcome=Outcome.SUCCEEDED)
    task = moved(ended(attempt(tries_failed=2), end))
    assert (task.state, task.tries_failed, task.result_attempt) == (TaskState.SUCCEEDED, 2, "a")


def test_its_last_result_is_compared_as_any_other_and_a_try_is_not() -> None:
    success = replace(failed(0), outcome=Outcome.SUCCEEDED)
    looked_at = {
        end.exit_code: to_be_known(attempt(), end, RULES, NOW, TICKETS, is_run=False).others
        for end in (success, failed(), failed(1))
    }
    assert looked_at == {0: True, 75: False, 1: True}


def test_what_looks_like_idleness_is_checked_and_not_tried_again_but_on_ones_own_node() -> None:
    again = RetryRules(retries=1, codes=frozenset({124}))
    about, idle = attempt(ran=600.0, retry=again), failed(-9, output_bytes=0, cpu_seconds=0.0)
    assert to_be_known(about, idle, RULES, NOW, TICKETS, is_run=False).others
    effects = ended(about, idle)
    assert (moved(effects).state, effects.trust.kept is not None) == (TaskState.FAILED, True)
    own = replace(about, node=replace(about.node, owner_id=USER))
    assert moved(ended(own, idle)).state is TaskState.QUEUED


def test_a_check_is_given_as_many_tries_before_it_says_anything() -> None:
    about = attempt(kind=TaskKind.AUDIT)
    about = replace(about, task=replace(about.task, id="t~1"))
    run = TaskRun(id="t~1", state=TaskState.RUNNING, attempt_state=AttemptState.RUNNING, provider_id=OWNER)
    parent = ParentTask(id="t", owner_id=USER, state=TaskState.SUCCEEDED, result_digest="d")
    checked = ProvisionalResult(
        task_id="t", attempt_id="t:1", node_id="n0", owner_id=9, finished_at=NOW - 9, drawn=True, block="t"
    )
    family = TaskFamily(parent=parent, runs=(run,), others=True, checked=checked)
    effects = decide(
        AttemptEndSnapshot(attempt=about, family=family), failed(digest="e"), RULES, NOW, TICKETS
    )
    assert (moved(effects).state, moved(effects).wait_until) == (TaskState.QUEUED, NOW + 30)
    assert (effects.family, effects.added, effects.settlement, effects.try_paid) == (None, (), None, None)


def test_a_try_without_work_is_not_paid() -> None:
    effects = ended(attempt(), failed(idle=True))
    assert moved(effects).state is TaskState.QUEUED
    assert effects.try_paid is not None
    assert (effects.try_paid.entries, moved(effects).hold_again) == ((), 0)


def test_told_again_it_changes_nothing_and_after_the_next_try_it_is_stale() -> None:
    about = attempt()
    waits = replace(about, state=AttemptState.FINISHED, task=replace(about.task, state=TaskState.QUEUED))
    assert ended(waits, failed()) == Effects(now=NOW, told_before=True)
    for task in (
        replace(waits.task, state=TaskState.STOPPED),
        replace(waits.task, state=TaskState.RUNNING, attempt_number=2),
    ):
        with pytest.raises(StaleAttemptError):
            ended(replace(waits, task=task), failed())
    with pytest.raises(StaleAttemptError):
        ended(waits, replace(failed(0), outcome=Outcome.SUCCEEDED))
