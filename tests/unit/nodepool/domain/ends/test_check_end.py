"""What follows when a run that checks a result has ended: pay, records, blocks, recalls and scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodepool.domain.ends import check_end
from nodepool.domain.ends.effects import Effects, EndDecision, EndRules, Tickets
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily, TaskRun
from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import AttemptState, TaskState, Verification
from nodepool.domain.trust.audits import FORGIVEN_AFTER, NodeRecord, OwnerRecord, Reach
from nodepool.domain.trust.credit import Cause
from nodepool.domain.trust.credit_moves import Score
from nodepool.domain.trust.provisional import LENIENT, STRICT, ProvisionalResult, TrustFacts
from nodepool.domain.trust.replication import CHECK_PATIENCE_SECONDS

NOW, PRICE, OWNER = 1000.0, 3, 9
PARENT = ParentTask(
    id="t", owner_id=1, state=TaskState.SUCCEEDED, price_per_minute=PRICE, result_digest="true", tier="low"
)


def result(task_id: str = "t", **facts: object) -> ProvisionalResult:
    values: dict[str, object] = {
        "task_id": task_id, "attempt_id": f"{task_id}:1", "node_id": "n", "owner_id": OWNER,
        "finished_at": NOW - 100, "block": "t", "drawn": task_id == "t", "waiting_pay": PRICE,
        "payer": "user:1", "runs": int(task_id == "t"), "started_at": NOW - 130, "ended_at": NOW - 100,
    }  # fmt: skip
    return ProvisionalResult(**{**values, **facts})  # type: ignore[arg-type]


def run(number: int, digest: str, **facts: object) -> TaskRun:
    values: dict[str, object] = {
        "id": f"t~{number}", "state": TaskState.SUCCEEDED, "node_id": f"n{number}",
        "attempt_id": f"a{number}", "attempt_state": AttemptState.FINISHED, "attempt_started_at": NOW - 40,
        "attempt_finished_at": NOW - 10, "result_digest": digest, "result_attempt": f"a{number}",
        "provider_id": 10 + number, "trusted": True,
    }  # fmt: skip
    return TaskRun(**{**values, **facts})  # type: ignore[arg-type]


def check(
    *runs: TaskRun,
    own: ProvisionalResult | None = None,
    parent: ParentTask = PARENT,
    rest: tuple[ProvisionalResult, ...] = (),
    **facts: object,
) -> Effects:
    own = own or result()
    trust = TrustFacts(results=(own, *rest), **{"reach": Reach(9, 9), **facts})  # type: ignore[arg-type]
    people = [OWNER, *(run.provider for run in runs)]
    scores = {user: Score(user_id=user, score=60) for user in people}
    decision = EndDecision(now=NOW, rules=EndRules(), tickets=Tickets(draw=0.0), trust=trust, scores=scores)
    family = TaskFamily(parent=parent, runs=runs, others=True, checked=own)
    check_end.follow_up(family, decision)
    effects = decision.effects()
    assert check_end.is_due(family, NOW) == bool(effects.family or effects.added)
    return effects


def moved(effects: Effects) -> dict[str, tuple[str, int]]:
    return {it.credit: (it.debit, it.amount) for it in effects.trust.movements}


def causes(effects: Effects) -> dict[int, Cause]:
    return {move.user_id: row.change.cause for move in effects.scores for row in move.rows}


def test_a_result_that_is_confirmed_is_paid_with_its_block() -> None:
    effects = check(run(1, "true"), rest=(result("u"),), fees=100)
    assert dict(effects.trust.forgotten) == {"t": Verification.AUDITED, "u": Verification.AUDITED}
    awards = [(it.credit, it.debit, it.amount) for it in effects.trust.movements]
    assert awards.count((f"user:{OWNER}", ledger.PENDING, PRICE)) == 2
    assert ("user:11", ledger.FEE, PRICE) in awards  # the pool pays for the check
    assert effects.trust.nodes == {"n": NodeRecord(verified=1)}
    assert causes(effects) == {OWNER: Cause.VERIFIED, 11: Cause.VERIFIED}


def test_one_against_one_asks_a_third() -> None:
    effects = check(run(1, "other"))
    assert [it.task_id for it in effects.added] == ["t~2"]
    assert (effects.family, effects.trust.movements, effects.scores) == (None, (), ())


def test_a_lie_is_replaced_and_all_that_its_node_waits_for_is_run_again() -> None:
    lie = replace(PARENT, result_digest="lie")
    effects = check(run(1, "true"), run(2, "true"), parent=lie, rest=(result("u"), result("v", block="")))
    assert effects.family is not None
    assert effects.family.replaced is not None
    assert effects.family.replaced.result.result_attempt == "a1"
    assert dict(effects.trust.forgotten) == {"t": Verification.DISPUTED}
    assert [(it.task_id, it.recalled) for it in effects.trust.checks] == [("u", STRICT), ("v", STRICT)]
    assert [it.task_id for it in effects.added] == ["u~1", "v~1"]
    # What the user paid for the lie pays the first check, and the mint the second: the pool has no fees.
    assert moved(effects) == {"user:11": (ledger.PENDING, PRICE), "user:12": (ledger.MINT, PRICE)}
    assert effects.trust.owners == {OWNER: OwnerRecord(strikes=1)}
    assert effects.trust.nodes["n"].paused_until > NOW
    assert effects.follow_up is not None
    assert effects.follow_up.paused == {"n"}
    assert causes(effects) == {OWNER: Cause.DIFFERED, 11: Cause.VERIFIED, 12: Cause.VERIFIED}


def test_one_error_of_an_owner_with_a_good_record_lets_the_others_keep_their_pay() -> None:
    lie = replace(PARENT, result_digest="lie")
    known = {OWNER: OwnerRecord(clean=FORGIVEN_AFTER)}
    effects = check(run(1, "true"), run(2, "true"), parent=lie, rest=(result("u"),), owners=known)
    assert [it.recalled for it in effects.trust.checks] == [LENIENT]
    assert effects.trust.nodes.get("n", NodeRecord()).paused_until == 0


@pytest.mark.parametrize(("recalled", "receiver"), [(STRICT, "user:11"), (LENIENT, f"user:{OWNER}")])
def test_the_pay_of_a_right_result_that_was_recalled_goes_to_the_check_or_stays(
    recalled: str, receiver: str
) -> None:
    effects = check(run(1, "true"), own=result(recalled=recalled))
    assert moved(effects)[receiver] == (ledger.PENDING, PRICE)
    # It moves nothing more: its owner has lost for the one that was found out.
    assert OWNER not in causes(effects)
    assert effects.trust.nodes == {}


def test_a_checker_that_lies_is_struck_and_what_it_waits_for_is_run_again() -> None:
    theirs = result("w", node_id="n1", owner_id=11, block="")
    effects = check(run(1, "lie"), run(2, "true"), rest=(theirs,))
    assert effects.trust.owners[11].strikes == 1
    assert [it.task_id for it in effects.added] == ["w~1"]
    assert "user:11" not in moved(effects)
    assert causes(effects)[11] is Cause.DIFFERED


def test_who_is_confirmed_by_a_friend_only_is_paid_and_gets_no_better_name() -> None:
    effects = check(run(1, "true"), related=frozenset({frozenset({OWNER, 11})}))
    assert moved(effects)[f"user:{OWNER}"] == (ledger.PENDING, PRICE)
    assert (effects.trust.nodes, effects.scores) == ({}, ())


def test_where_a_check_says_nothing_another_of_the_block_is_drawn() -> None:
    effects = check(run(1, "true"), rest=(result("u"), result("v")), reach=Reach(0, 9))
    assert [(it.task_id, it.block_of) for it in effects.trust.checks] == [("u", ("u", "v"))]
    assert [task_id for task_id, _ in effects.trust.forgotten] == ["t"]


def test_a_node_that_took_far_longer_than_the_checks_gets_what_is_fair() -> None:
    slow = result(started_at=NOW - 3700, waiting_pay=60 * PRICE)
    effects = check(run(1, "true"), own=slow)
    assert moved(effects)[f"user:{OWNER}"] == (ledger.PENDING, 3 * PRICE)
    assert moved(effects)["user:1"] == (ledger.PENDING, 57 * PRICE)


def test_of_one_users_tasks_only_the_first_of_a_day_raises_a_score() -> None:
    assert causes(check(run(1, "true"), raised=frozenset({OWNER}))) == {11: Cause.VERIFIED}


def test_a_check_that_nobody_can_make_ends_after_a_day_and_the_node_is_paid() -> None:
    own = result(finished_at=NOW - CHECK_PATIENCE_SECONDS)
    waits = TaskRun(id="t~1", state=TaskState.QUEUED)
    effects = check(waits, own=own)
    assert moved(effects) == {f"user:{OWNER}": (ledger.PENDING, PRICE)}
    assert dict(effects.trust.forgotten) == {"t": ""}
    assert effects.trust.nodes == {}


def test_a_check_that_was_decided_before_changes_nothing() -> None:
    decision = EndDecision(now=NOW, rules=EndRules(), tickets=Tickets())
    check_end.follow_up(TaskFamily(parent=PARENT, runs=(run(1, "true"),)), decision)
    effects = decision.effects()
    assert (effects.family, effects.trust.movements, effects.added) == (None, (), ())
