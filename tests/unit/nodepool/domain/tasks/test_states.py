"""The two tables of states: what may follow what, and that nothing else can."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.errors import InvalidTransitionError
from nodepool.domain.tasks.states import (
    ATTEMPT_STATE_OF_OUTCOME,
    ATTEMPT_TRANSITIONS,
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    TASK_TRANSITIONS,
    AttemptState,
    Outcome,
    TaskState,
    check_attempt_transition,
    check_task_transition,
    task_state_after,
)

TASK_STATES = st.sampled_from(TaskState)
ATTEMPT_STATES = st.sampled_from(AttemptState)
OUTCOMES = st.sampled_from(Outcome)


def test_every_state_has_a_row() -> None:
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set(ATTEMPT_TRANSITIONS) == set(AttemptState)
    assert set(ATTEMPT_STATE_OF_OUTCOME) == set(Outcome)


def test_final_states_lead_nowhere_and_the_others_somewhere() -> None:
    assert {state for state, nexts in TASK_TRANSITIONS.items() if not nexts} == FINAL_TASK_STATES
    living = {state for state, nexts in ATTEMPT_TRANSITIONS.items() if nexts}
    assert living == LIVE_ATTEMPT_STATES


@given(TASK_STATES, TASK_STATES)
def test_a_task_goes_where_the_table_says_and_nowhere_else(before: TaskState, after: TaskState) -> None:
    allowed = after in TASK_TRANSITIONS[before]
    if allowed:
        check_task_transition(before, after)
    else:
        with pytest.raises(InvalidTransitionError, match=f"from {before} to {after}"):
            check_task_transition(before, after)


@given(ATTEMPT_STATES, ATTEMPT_STATES)
def test_an_attempt_goes_where_the_table_says_and_nowhere_else(
    before: AttemptState, after: AttemptState
) -> None:
    if after in ATTEMPT_TRANSITIONS[before]:
        check_attempt_transition(before, after)
    else:
        with pytest.raises(InvalidTransitionError):
            check_attempt_transition(before, after)


@given(st.lists(TASK_STATES, max_size=30))
def test_no_way_leads_out_of_a_final_state_or_back_to_one_it_skipped(wishes: list[TaskState]) -> None:
    state, ended = TaskState.QUEUED, False
    for wish in wishes:
        try:
            check_task_transition(state, wish)
        except InvalidTransitionError:
            continue
        assert not ended
        state, ended = wish, wish in FINAL_TASK_STATES


@given(
    outcome=OUTCOMES,
    ended=st.integers(1, 60),
    most=st.integers(1, 50),
    stop=st.booleans(),
    running=st.booleans(),
)
def test_every_end_of_an_attempt_leads_where_its_task_may_go(
    *, outcome: Outcome, ended: int, most: int, stop: bool, running: bool
) -> None:
    attempt = AttemptState.RUNNING if running else AttemptState.ASSIGNED
    if ATTEMPT_STATE_OF_OUTCOME[outcome] not in ATTEMPT_TRANSITIONS[attempt]:
        return
    after = task_state_after(outcome, attempts_ended=ended, max_attempts=most, stop_requested=stop)
    check_task_transition(TaskState.RUNNING if running else TaskState.PLACED, after)
    if after is TaskState.QUEUED:
        assert outcome in {Outcome.LOST, Outcome.REFUSED}
        assert ended < most
        assert not stop


@pytest.mark.parametrize(
    ("outcome", "ended", "stop", "after"),
    [
        (Outcome.SUCCEEDED, 0, False, TaskState.SUCCEEDED),
        (Outcome.SUCCEEDED, 0, True, TaskState.SUCCEEDED),
        (Outcome.FAILED, 0, False, TaskState.FAILED),
        (Outcome.FAILED, 0, True, TaskState.FAILED),
        (Outcome.STOPPED, 0, True, TaskState.STOPPED),
        (Outcome.LOST, 4, False, TaskState.QUEUED),
        (Outcome.LOST, 5, False, TaskState.FAILED),
        (Outcome.REFUSED, 4, False, TaskState.QUEUED),
        (Outcome.REFUSED, 5, False, TaskState.FAILED),
        (Outcome.LOST, 5, True, TaskState.STOPPED),
        (Outcome.REFUSED, 1, True, TaskState.STOPPED),
    ],
)
def test_where_an_end_leads(outcome: Outcome, ended: int, stop: bool, after: TaskState) -> None:  # noqa: FBT001
    assert task_state_after(outcome, attempts_ended=ended, max_attempts=5, stop_requested=stop) is after
