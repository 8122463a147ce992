"""Each invariant of the fault program says so when it is shown a history that violates it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.history import Attempt, Call, CreditChange, Fault, History, Pause, Run, Sample, Task, due
from tests.chaos.invariants import RULES, drain_ratio, longest_wait, violations

NODE = "ada/n1"
FAULT = Fault("kill broker", 20.0, 24.0)
END = 40.0


def busy(**changes: object) -> History:
    """A node with one place and a task in each second, the broker killed once: nothing is wrong with it."""
    times = [float(second) for second in range(1, int(END))]
    tasks = tuple(
        Task(f"t{at:g}", at - 1, "SUCCEEDED", at + 0.9, "abc", "abc", ("SUCCEEDED",), payments=1)
        for at in times
    )
    attempts = tuple(
        Attempt(f"t{at:g}:1", f"t{at:g}", 1, NODE, at - 0.1, "finished", at + 0.9, listed=(at + 1.0,))
        for at in times
    )
    runs = tuple(Run(f"t{at:g}:1", NODE, at, at + 0.7) for at in times)
    samples = tuple(Sample(at / 4, 3, {NODE: 0}, frozenset({NODE})) for at in range(int(END) * 4))
    history = History(
        began=0.0, reference_until=18.0, calm_until=END, slots={NODE: 1}, faults=(FAULT,), samples=samples,
        tasks=tasks, attempts=attempts, runs=runs,
    )  # fmt: skip
    return replace(history, **changes)  # type: ignore[arg-type]


def said(history: History) -> dict[str, list[str]]:
    return {name: words for name, words in violations(history).items() if words}


def one(rule: str, history: History) -> str:
    """The only violation, and of this rule."""
    found = said(history)
    assert list(found) == [rule]
    assert len(found[rule]) == 1
    return found[rule][0]


def test_nothing_is_said_of_a_history_without_fault() -> None:
    assert said(busy()) == {}
    assert set(violations(busy())) == set(RULES)


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", ""])
def test_a_task_that_never_ends_is_lost(state: str) -> None:
    lost = Task("t", 1.0, state)
    assert "was accepted and has not ended" in one("nothing lost", busy(tasks=(*busy().tasks, lost)))


def test_a_task_that_fails_or_has_no_result_is_lost() -> None:
    tasks = busy().tasks
    failed = replace(tasks[0], state="FAILED", ends=("FAILED",))
    assert "ended FAILED" in one("nothing lost", busy(tasks=(failed, *tasks[1:])))
    empty = replace(tasks[0], result_token="", output_token="")
    assert "has no result" in one("nothing lost", busy(tasks=(empty, *tasks[1:])))


def test_doubled_ends_outputs_results_and_runs_are_told() -> None:
    first, *rest = busy().tasks
    for changed, words in (
        (replace(first, ends=("SUCCEEDED", "QUEUED", "SUCCEEDED")), "ended more than once"),
        (replace(first, output_token="abc def"), "the output of 2 runs"),
        (replace(first, output_token="def"), "output is of run def, the result of abc"),
    ):
        assert words in one("nothing doubled", busy(tasks=(changed, *rest)))
    second = replace(busy().attempts[0], attempt_id="t1:2", number=2)
    assert "2 attempts that finished" in one("nothing doubled", busy(attempts=(*busy().attempts, second)))
    again = Run("t1:1", NODE, 1.9, 2.0)
    assert "was run 2 times" in one("nothing doubled", busy(runs=(*busy().runs, again)))


def test_money_that_moves_twice_is_told() -> None:
    first, *rest = busy().tasks
    assert "paid 2 times" in one("nothing paid twice", busy(tasks=(replace(first, payments=2), *rest)))
    assert "still holds CPT" in one("nothing paid twice", busy(tasks=(replace(first, holds_open=1), *rest)))
    assert one("nothing paid twice", busy(ledger_problems=("the chain is broken",))) == "the chain is broken"


def test_more_runs_than_places_are_told_whatever_the_pool_thinks() -> None:
    samples = (*busy().samples, Sample(39.9, 3, {NODE: 2}, frozenset({NODE})))
    assert "ran 2 tasks at once and takes 1" in one("never over capacity", busy(samples=samples))


def test_room_of_what_has_ended_is_told_when_it_is_kept() -> None:
    first, *rest = busy().attempts
    kept = replace(first, listed=(first.ended + 1, first.ended + 7))
    assert "kept room for t1:1" in one("room free within 5 s", busy(attempts=(kept, *rest)))
    through_the_fault = replace(first, ended=19.0, listed=(28.5,))
    assert said(busy(attempts=(through_the_fault, *rest))) == {}
    listed_again_by_a_server_that_took_over = replace(first, listed=(21.0, 25.0))
    assert said(busy(attempts=(listed_again_by_a_server_that_took_over, *rest))) == {}


def without_starts(began: float, until: float, **changes: object) -> History:
    runs = tuple(run for run in busy().runs if not began < run.began < until)
    return busy(runs=runs, **changes)


def test_a_stall_after_a_fault_is_told_where_work_waits_and_room_is_free() -> None:
    assert "after kill broker no task began for 8.0 s" in one("no stall over 5 s", without_starts(24, 32))
    assert said(without_starts(24, 28)) == {}
    assert said(without_starts(20, 24)) == {}


def test_a_stall_is_none_where_nothing_waits_nothing_is_free_or_no_node_is_there() -> None:
    for reason in (
        Sample(0, 0, {NODE: 0}, frozenset({NODE})),
        Sample(0, 3, {NODE: 1}, frozenset({NODE})),
        Sample(0, 3, {NODE: 0}, frozenset()),
        Sample(0, None, {NODE: 0}, frozenset({NODE})),
    ):
        samples = tuple(replace(reason, at=it.at) if 24 < it.at < 32 else it for it in busy().samples)
        assert said(without_starts(24, 32, samples=samples)) == {}


def test_a_stall_without_any_fault_is_told_and_excuses_nothing() -> None:
    found = said(without_starts(5, 12))
    assert "without any fault" in found["no stall over 5 s"][0]


def test_seconds_in_which_the_machine_stood_still_do_not_count() -> None:
    assert said(without_starts(24, 32, pauses=(Pause(25.0, 29.0),))) == {}


def test_a_pool_that_goes_on_at_less_than_half_of_its_pace_is_told() -> None:
    # Of what ended after 29 every third.
    tasks = tuple(it for number, it in enumerate(busy().tasks) if it.ended < 29 or number % 3 == 0)
    history = busy(tasks=tasks)
    assert drain_ratio(history, 0) == pytest.approx(1 / 3, abs=0.1)
    assert "% of its pace" in one("backlog drains", history)


def test_a_machine_that_has_become_slower_before_a_fault_is_not_held_against_it() -> None:
    slow = tuple(it for number, it in enumerate(busy().tasks) if it.ended < 12 or number % 3 == 0)
    faults = (Fault("flushall broker", 8.0, 8.5), replace(FAULT, began=22.0, ended=22.5))
    history = busy(tasks=slow, faults=faults, reference_until=8.0)
    assert drain_ratio(history, 0) == pytest.approx(1 / 3, abs=0.1)
    assert drain_ratio(history, 1) == pytest.approx(1.0, abs=0.2)


def test_a_pace_on_a_machine_that_many_more_want_may_be_slower() -> None:
    tasks = tuple(it for number, it in enumerate(busy().tasks) if it.ended < 29 or number % 3 == 0)
    crowded = tuple(replace(it, crowd=4.0) if it.at > 24 else it for it in busy().samples)
    assert said(busy(tasks=tasks, samples=crowded)) == {}
    stopped = tuple(it for it in busy().tasks if it.ended < 29)
    assert "% of its pace" in one("backlog drains", busy(tasks=stopped, samples=crowded))


def test_a_pace_is_not_told_from_a_moment() -> None:
    assert drain_ratio(busy(calm_until=30.0), 0) is None


def test_a_process_that_outlives_its_attempt_is_told() -> None:
    first, *rest = busy().runs
    assert "after its attempt had ended" in one(
        "no run outlives its attempt", busy(runs=(replace(first, ended=first.began + 18), *rest))
    )
    assert one("no run outlives its attempt", busy(leftovers=("42 python",))) == "42 python"


def test_errors_without_a_proper_status_or_a_word_are_told_and_others_only_out_of_time() -> None:
    during = Call("UploadTask", 21.0, 22.0, "unreachable", "the pool cannot be reached")
    assert said(busy(calls=(during, Call("UploadTask", 30.0, 30.1)))) == {}
    for call, words in (
        (replace(during, error="failure", message="the pool failed (UNKNOWN)"), "answered failure"),
        (replace(during, message=""), "without a word"),
        (replace(during, began=35.0, ended=35.1), "with nothing broken"),
    ):
        assert words in one("errors are proper", busy(calls=(call,)))


def test_credit_that_an_honest_owner_loses_is_told() -> None:
    lost = CreditChange(NODE, "t1", -2, 26.0, "lost")
    assert "lost 2 credit" in one("credit is kept", busy(credit=(lost,)))
    assert said(busy(credit=(replace(lost, delta=1),))) == {}
    own = replace(FAULT, name="kill agent", blames=NODE)
    assert said(busy(credit=(lost,), faults=(own,))) == {}
    assert "lost 2 credit" in one(
        "credit is kept", busy(credit=(replace(lost, node_id="bob/n"),), faults=(own,))
    )


def test_probation_without_a_failure_of_its_own_is_told() -> None:
    assert "on probation" in one("credit is kept", busy(on_probation=(NODE,)))
    own = replace(FAULT, name="kill agent", blames=NODE)
    assert said(busy(on_probation=(NODE,), faults=(own,))) == {}


def test_the_longest_wait_is_from_start_to_start() -> None:
    assert longest_wait(busy(), 24.0, 40.0) == pytest.approx(1.0)


def test_what_is_due_during_a_fault_is_due_after_it() -> None:
    history = busy()
    assert due(history, 5.0, 5.0) == 10.0
    assert due(history, 18.0, 5.0) == 29.0
    assert due(history, 26.0, 5.0) == 31.0
