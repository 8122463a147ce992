"""What follows for a task with several runs when one of them has ended, without a database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodepool.domain.ends import replicated_end
from nodepool.domain.ends.effects import Effects, EndDecision, EndRules, Tickets
from nodepool.domain.ends.task_runs import NOT_NEEDED, ParentTask, TaskFamily, TaskRun
from nodepool.domain.money import ledger
from nodepool.domain.money.settlement import Hold
from nodepool.domain.tasks.states import AttemptState, RunVerdict, TaskState, Verification
from nodepool.domain.trust.audits import WATCHED
from nodepool.domain.trust.replication import PATIENCE_SECONDS

NOW, PRICE = 1000.0, 3
PARENT = ParentTask(
    id="t", owner_id=1, state=TaskState.RUNNING, replicas=3, price_per_minute=PRICE, tier="high"
)
HOLD = Hold(task_id="t", account_id="user:1", amount=180 * PRICE, price_per_minute=PRICE)


def run(number: int, digest: str = "", state: TaskState = TaskState.SUCCEEDED, **facts: object) -> TaskRun:
    over = state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.STOPPED)
    values: dict[str, object] = {
        "id": f"t~{number}",
        "state": state,
        "node_id": f"n{number}" if state is not TaskState.QUEUED else "",
        "attempt_id": f"a{number}",
        "attempt_state": AttemptState.FINISHED if over else AttemptState.RUNNING,
        "attempt_started_at": NOW - 100,
        "attempt_finished_at": NOW - 10 if over else None,
        "result_digest": digest,
        "result_attempt": f"a{number}" if over else "",
        "provider_id": 10 + number,
        "trusted": True,
    }
    return TaskRun(**{**values, **facts})  # type: ignore[arg-type]


RUNS_ON = run(3, state=TaskState.RUNNING)


def follow(*runs: TaskRun, parent: ParentTask = PARENT, others: bool = True, now: float = NOW) -> Effects:
    decision = EndDecision(now=now, rules=EndRules(), tickets=Tickets())
    family = TaskFamily(parent=parent, runs=runs, others=others, hold=HOLD)
    replicated_end.follow_up(family, decision)
    effects = decision.effects()
    # The sweep asks first, and nothing is done where nothing is due.
    assert replicated_end.is_due(family, now) == bool(effects.family or effects.added)
    return effects


def paid(effects: Effects) -> dict[str, int]:
    assert effects.settlement is not None
    return {it.credit: it.amount for it in effects.settlement.entries if it.kind == "payment"}


def test_those_who_agree_end_it_and_are_paid_and_who_differs_is_watched() -> None:
    effects = follow(run(1, "lie"), run(2, "a"), run(3, "a"))
    assert effects.family is not None
    assert effects.family.ended is not None
    assert effects.family.ended.state is TaskState.SUCCEEDED
    assert effects.family.ended.verification is Verification.AGREED
    assert effects.family.ended.result is not None
    assert effects.family.ended.result.result_attempt == "a2"
    assert dict(effects.family.verdicts) == {
        "t~1": RunVerdict.DIFFERS, "t~2": RunVerdict.AGREED, "t~3": RunVerdict.AGREED,
    }  # fmt: skip
    assert paid(effects) == {"user:12": 2 * PRICE, "user:13": 2 * PRICE}
    assert effects.trust.watched == {"n1": WATCHED}
    # Who ordered the runs may have chosen who agrees with whom.
    assert (effects.scores, effects.trust.nodes, effects.trust.owners) == ((), {}, {})


def test_a_majority_that_has_waited_stops_the_one_that_runs() -> None:
    assert follow(run(1, "a"), run(2, "a"), RUNS_ON).family is None
    effects = follow(run(1, "a"), run(2, "a"), RUNS_ON, now=NOW + 10 * PATIENCE_SECONDS)
    assert effects.family is not None
    assert effects.family.dropped == NOT_NEEDED
    assert effects.follow_up is not None
    assert (effects.follow_up.stopped, effects.follow_up.ended) == ((("n3", "a3"),), True)


@pytest.mark.parametrize("others", [True, False])
def test_answers_that_differ_get_one_more_run_while_there_is_somebody_to_ask(*, others: bool) -> None:
    effects = follow(run(1, "a"), run(2, "b"), run(3, "c"), others=others)
    if others:
        assert [it.task_id for it in effects.added] == ["t~4"]
        assert effects.family is None
        return
    assert effects.family is not None
    assert effects.family.ended is not None
    assert effects.family.ended.verification is Verification.DISPUTED
    assert len(paid(effects)) == 3  # nobody is blamed


def test_an_idle_run_is_not_paid_even_where_it_agrees() -> None:
    effects = follow(run(1, "a", attempt_idle=True), run(2, "a"), run(3, "a"))
    assert sorted(paid(effects)) == ["user:12", "user:13"]


def test_a_stop_ends_what_waits_and_then_the_task_when_nothing_runs_any_more() -> None:
    asked = replace(PARENT, stop_requested=True)
    first = follow(run(1, "a"), RUNS_ON, run(4, state=TaskState.QUEUED), parent=asked)
    assert first.family is not None
    assert (first.family.ended, first.settlement) == (None, None)
    assert first.follow_up is not None
    assert first.follow_up.stopped == (("n3", "a3"),)
    last = follow(
        run(1, "a"), run(3, state=TaskState.STOPPED, attempt_state=AttemptState.STOPPED), parent=asked
    )
    assert last.family is not None
    assert last.family.ended is not None
    assert last.family.ended.state is TaskState.STOPPED
    assert sorted(paid(last)) == ["user:11", "user:13"]


def test_what_has_ended_is_left_as_it_is() -> None:
    over = replace(PARENT, state=TaskState.SUCCEEDED)
    effects = follow(run(1, "a"), run(2, "a"), parent=over)
    assert (effects.family, effects.settlement, effects.added) == (None, None, ())


def test_the_whole_hold_is_divided() -> None:
    effects = follow(run(1, "a"), run(2, "a"), run(3, "a"))
    assert effects.settlement is not None
    assert sum(it.amount for it in effects.settlement.entries) == HOLD.amount
    assert {it.debit for it in effects.settlement.entries} == {ledger.ESCROW}
