"""What comes after what: when it goes on, when it never will, and what cannot be named."""

from __future__ import annotations

import pytest

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.tasks.dependencies import (
    MAX_NEEDED,
    WHOLE_JOB,
    Bad,
    Need,
    NextStep,
    Standing,
    Unit,
    check_named,
    waits_for,
    what_next,
)

OPEN, DONE = Standing(has_ended=False), Standing(has_ended=True)
FAILED = Standing(has_ended=True, bad=Bad.FAILED)
# Of a job: one of its tasks has failed, and others run.
FAILING = Standing(has_ended=False, bad=Bad.FAILED)


def _needs(*standings: Standing, on_any_end: bool = False) -> list[Need]:
    return [Need(Unit(f"t{at}"), on_any_end, standing) for at, standing in enumerate(standings)]


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (_needs(OPEN), NextStep.WAIT),
        (_needs(DONE, OPEN), NextStep.WAIT),
        (_needs(DONE, DONE), NextStep.GO),
        (_needs(FAILED), NextStep.STOP),
        (_needs(OPEN, FAILED), NextStep.STOP),
        (_needs(FAILING), NextStep.STOP),
        (_needs(FAILED, on_any_end=True), NextStep.GO),
        (_needs(FAILING, on_any_end=True), NextStep.WAIT),
        ([*_needs(DONE), *_needs(OPEN, on_any_end=True)], NextStep.WAIT),
        ([*_needs(DONE), *_needs(FAILED, on_any_end=True)], NextStep.GO),
    ],
)
def test_a_task_goes_on_when_all_is_as_it_asks_and_never_when_one_cannot_be(
    needs: list[Need], expected: NextStep
) -> None:
    assert what_next(needs)[0] is expected


def test_the_reason_names_what_failed() -> None:
    needs = [*_needs(OPEN), Need(Unit("sweep", WHOLE_JOB), on_any_end=False, standing=FAILING)]
    assert str(what_next(needs)[1]) == "stopped before it ran: it comes after job sweep, which has failed"


def test_what_is_waited_for_is_told_and_not_all_of_a_hundred() -> None:
    assert str(waits_for(_needs(OPEN, on_any_end=True))) == (
        "waiting for other tasks: it comes after task t0, however it ends"
    )
    assert str(waits_for(_needs(*[OPEN] * 5))).endswith("after task t0, task t1, task t2 and 2 more")


@pytest.mark.parametrize(
    ("after", "after_any", "words"),
    [
        (["own"], [], "own cannot come after itself"),
        ([], ["own"], "own cannot come after itself"),
        (["a", "a"], [], "a is named twice"),
        (["a"], ["a"], "a is named twice"),
        (["no id"], [], "'no id' is no id of a task or job"),
        (["a\nb"], [], "is no id"),
        ([""], [], "'' is no id"),
        ([f"t{number}" for number in range(MAX_NEEDED + 1)], [], "at most 100 others, not 101"),
    ],
)
def test_what_cannot_be_named_is_refused(after: list[str], after_any: list[str], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_named("own", after, after_any)
