"""What comes next for a task with several runs."""

from __future__ import annotations

import pytest

from nodepool.domain.tasks.states import TaskState
from nodepool.domain.trust.replication import (
    CHECK_PATIENCE_SECONDS,
    PATIENCE_SECONDS,
    TIE_PATIENCE_SECONDS,
    ReplicaRun,
    Step,
    next_step,
)
from nodepool.domain.trust.voting import Finding, Verdict, Vote

WAITING = ReplicaRun(state=TaskState.QUEUED)
RUNNING = ReplicaRun(state=TaskState.RUNNING)
STOPPED = ReplicaRun(state=TaskState.STOPPED)
GIVEN_UP = ReplicaRun(state=TaskState.FAILED, given_up=True)


def said(
    digest: str, owner: int, *, at: float = 0.0, seconds: float = 1.0, trusted: bool = True, run: str = ""
) -> ReplicaRun:
    vote = Vote(run_id=run or f"t~{owner}", owner_id=owner, digest=digest, trusted=trusted)
    return ReplicaRun(state=TaskState.SUCCEEDED, vote=vote, ended_at=at, seconds=seconds)


def next_of(
    *runs: ReplicaRun, replicas: int = 3, now: float = 0.0, others: bool = True, by_user: bool = True
) -> tuple[Step, int, Verdict | None]:
    found = next_step(runs, replicas=replicas, now=now, others=others, by_user=by_user)
    return found.step, found.add, found.count.verdict if found.count else None


WAIT = (Step.WAIT, 0, None)
AGREED = (Step.END, 0, Verdict.AGREED)
UNDECIDED = (Step.END, 0, Verdict.UNDECIDED)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ((WAITING, WAITING, WAITING), WAIT),
        ((said("a", 1), WAITING, RUNNING), WAIT),
        ((said("a", 1), said("a", 2), RUNNING), WAIT),
        ((said("a", 1), said("a", 2), said("a", 3)), AGREED),
        ((said("a", 1), said("b", 2), said("a", 3)), AGREED),
        ((said("a", 1), said("b", 2), said("c", 3)), (Step.ADD, 1, None)),
        ((said("a", 1), said("b", 2), said("c", 3), WAITING), WAIT),
        ((said("a", 1), said("b", 2), said("c", 3), said("c", 4)), AGREED),
        ((said("a", 1), said("b", 2), said("c", 3), said("d", 4), said("e", 5)), UNDECIDED),
    ],
)
def test_votes_are_waited_for_and_counted(runs: tuple[ReplicaRun, ...], expected: object) -> None:
    assert next_of(*runs) == expected


def test_missing_runs_are_added_whatever_became_of_them() -> None:
    assert next_of() == (Step.ADD, 3, None)
    assert next_of(said("a", 1), WAITING) == (Step.ADD, 1, None)
    assert next_of(said("a", 1), STOPPED, RUNNING) == (Step.ADD, 1, None)


def test_who_asked_for_so_many_owners_waits_for_one_more() -> None:
    assert next_of(said("a", 1), WAITING, WAITING, others=False, now=1e6) == WAIT
    assert next_of(said("a", 1), said("b", 2), WAITING, others=False, now=1e6) == WAIT


def test_a_majority_waits_a_while_for_runs_without_a_node() -> None:
    runs = (said("a", 1, at=10), said("a", 2, at=20), WAITING)
    assert next_of(*runs, now=20 + PATIENCE_SECONDS - 1) == WAIT
    assert next_of(*runs, now=20 + PATIENCE_SECONDS) == AGREED


def test_a_majority_waits_for_a_run_as_long_again_as_the_slowest_took() -> None:
    runs = (said("a", 1, seconds=300), said("a", 2, seconds=200), RUNNING)
    assert next_of(*runs, now=599) == WAIT
    assert next_of(*runs, now=600) == AGREED


def test_two_of_five_are_no_majority_however_long_one_waits() -> None:
    runs = (said("a", 1), said("a", 2), WAITING, RUNNING, WAITING)
    assert next_of(*runs, replicas=5, now=1e9) == WAIT


def test_a_tie_waits_longer_for_an_owner_who_can_decide_and_not_for_ever() -> None:
    runs = (said("a", 1), said("b", 2), WAITING)
    assert next_of(*runs, replicas=2, now=TIE_PATIENCE_SECONDS - 1) == WAIT
    assert next_of(*runs, replicas=2, now=TIE_PATIENCE_SECONDS) == UNDECIDED
    assert next_of(said("a", 1), said("b", 2), RUNNING, replicas=2, now=1e9) == WAIT


def test_a_tie_without_anybody_to_ask_ends_at_once() -> None:
    assert next_of(said("a", 1), said("b", 2), replicas=2, others=False) == UNDECIDED


def test_strangers_who_agree_are_believed_where_nobody_else_is() -> None:
    runs = [said("a", owner, trusted=False) for owner in (1, 2)]
    assert next_of(*runs, replicas=2) == (Step.ADD, 1, None)
    assert next_of(*runs, replicas=2, others=False) == AGREED


def test_a_task_that_kills_its_nodes_is_not_tried_on_all_of_them() -> None:
    assert next_of(GIVEN_UP, RUNNING, WAITING) == WAIT
    assert next_of(GIVEN_UP, said("a", 2), said("a", 3)) == AGREED
    assert next_of(GIVEN_UP, GIVEN_UP, GIVEN_UP) == UNDECIDED


def test_runs_that_end_without_a_word_are_replaced_but_not_for_ever() -> None:
    assert next_of(*[STOPPED] * 4, replicas=1) == (Step.ADD, 1, None)
    assert next_of(*[STOPPED] * 5, replicas=1) == UNDECIDED


def test_what_nobody_asked_for_is_not_waited_for() -> None:
    own = said("a", 1)
    assert next_of(own, replicas=2, others=False, by_user=False) == UNDECIDED
    assert next_of(own, replicas=2, by_user=False) == (Step.ADD, 1, None)
    assert next_of(own, WAITING, replicas=2, now=CHECK_PATIENCE_SECONDS - 1, by_user=False) == WAIT
    assert next_of(own, WAITING, replicas=2, now=CHECK_PATIENCE_SECONDS, by_user=False) == UNDECIDED
    assert next_of(own, RUNNING, replicas=2, now=1e9, by_user=False) == WAIT


def test_of_one_owner_only_the_first_vote_counts() -> None:
    runs = (said("a", 1, run="t~1"), said("a", 1, at=1, run="t~2"), said("b", 2, at=2, run="t~3"))
    found = next_step([*runs, said("b", 3, at=3, run="t~4")], replicas=3, now=9, others=True)
    assert found.count is not None
    assert found.count.digest == "b"
    assert found.count.findings["t~2"] is Finding.UNDECIDED
