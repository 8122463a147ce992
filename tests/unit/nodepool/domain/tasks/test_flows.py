"""Steps that come after each other: their order, and what is no flow."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.arrays import MAX_TASKS
from nodepool.domain.tasks.flows import (
    MAX_STEPS,
    IndexRange,
    StepOrder,
    check_steps,
    check_tasks,
    index_ranges,
    result_values,
    used_results,
)


def _step(name: str, *needs: str, needs_any: tuple[str, ...] = ()) -> StepOrder:
    return StepOrder(name=name, needs=needs, needs_any=needs_any)


def test_steps_come_after_what_they_need() -> None:
    steps = [
        _step("sum", "count"),
        _step("count", "split"),
        _step("split"),
        _step("tell", needs_any=("sum",)),
    ]
    assert check_steps(steps, "job") == ["split", "count", "sum", "tell"]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "1 to 100 steps, not 0"),
        ([_step(f"s{number}") for number in range(MAX_STEPS + 1)], "1 to 100 steps, not 101"),
        ([_step("a", "a")], "step 'a' cannot come after itself"),
        ([_step("a", "b"), _step("b", "a")], "in a circle: a after b after a|in a circle: b after a after b"),
        ([_step("a", "c"), _step("b", "a"), _step("c", needs_any=("b",))], "in a circle: "),
        ([_step("split"), _step("b", "splti")], "needs 'splti', which is no step .* did you mean 'split'"),
        ([_step("a"), _step("a")], "two steps are called 'a'"),
        ([_step("a"), _step("b", "a", needs_any=("a",))], "needs 'a' twice"),
        ([_step("1st")], "'1st' is no name of a step"),
        ([_step("a.b")], "'a.b' is no name of a step"),
        ([_step("")], "'' is no name of a step"),
        ([_step("a" * 41)], "is no name of a step"),
    ],
)
def test_what_is_no_flow_is_refused_with_what_is_wrong(steps: list[StepOrder], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_steps(steps)


def test_names_of_steps_and_the_id_of_the_flow_fit_into_ids_of_tasks() -> None:
    check_steps([_step("a" * 40)], "j" * 76)
    with pytest.raises(InvalidInputError, match="task_id must be"):
        check_steps([_step("a" * 40)], "j" * 78)


def test_results_are_those_of_steps_that_it_needs() -> None:
    step = _step("sum", "count", needs_any=("split",))
    texts = ["--in={count.result}", "{{split.result}} {index}", "{count.result}/3"]
    assert used_results(texts, step) == ("count",)
    assert used_results(["{split.result}"], step) == ("split",)
    with pytest.raises(
        InvalidInputError, match=r"speaks of \{other.result\} and does not come after 'other'"
    ):
        used_results(["{other.result}"], step)
    assert result_values(["count"]) == {"count.result": "inputs/count"}


def test_each_step_has_its_own_range_of_indices() -> None:
    assert index_ranges([0, 49, 0]) == [IndexRange(0, 0), IndexRange(1, 50), IndexRange(51, 51)]
    with pytest.raises(InvalidInputError, match="begin at 0"):
        index_ranges([999_999_999] * 3)


def test_all_steps_together_have_as_many_tasks_as_an_array_may() -> None:
    assert check_tasks({"a": MAX_TASKS - 1, "b": 1}) == MAX_TASKS
    with pytest.raises(InvalidInputError, match="at most 100000 tasks, and these steps have 100001"):
        check_tasks({"a": MAX_TASKS, "b": 1})
