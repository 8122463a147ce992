"""How a node did: decay, success rate, speed, probation; what counts and what cannot be bought."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.nodes.history import (
    HANDED_BACK_WEIGHT,
    MOST_SPEED_OF_ONE_RUN,
    AttemptRecord,
    HistoryRules,
    MeasuredRun,
    NodeHistory,
    after_end,
    believable,
    is_handed_back,
    speed_of,
)
from nodepool.domain.tasks.states import Outcome

RULES = HistoryRules(half_life_seconds=100.0, probation_after=3)
GOOD, BAD = AttemptRecord(outcome=Outcome.SUCCEEDED), AttemptRecord(outcome=Outcome.LOST)
ENDINGS = st.builds(
    AttemptRecord,
    outcome=st.sampled_from(Outcome),
    counts=st.booleans(),
    handed_back=st.booleans(),
    bad_before=st.integers(0, 50),
    speed=st.none() | st.floats(0.5, 2.0),
)


def history(*endings: AttemptRecord, now: float = 0.0) -> NodeHistory:
    """Of these endings, all at once."""
    so_far = NodeHistory()
    for ending in endings:
        so_far = after_end(so_far, ending, now, RULES)
    return so_far


def test_what_was_counts_half_after_the_half_life() -> None:
    then = NodeHistory(good=8, bad=4, speed_sum=6, speed_weight=2, at=50, bad_streak=2)
    assert then.as_of(150, RULES) == NodeHistory(
        good=4, bad=2, speed_sum=3, speed_weight=1, at=150, bad_streak=2
    )
    assert then.as_of(150, RULES).as_of(250, RULES).good == pytest.approx(then.as_of(250, RULES).good)


def test_a_clock_that_goes_back_changes_nothing() -> None:
    then = NodeHistory(good=8, at=50)
    assert then.as_of(10, RULES) == then
    assert after_end(then, GOOD, 10, RULES) == NodeHistory(good=9, at=50)


def test_an_unknown_node_is_between_one_that_proved_itself_and_one_that_lost_something() -> None:
    nobody, proven, fallen = NodeHistory(), history(*[GOOD] * 5), history(BAD)
    assert fallen.success_rate < nobody.success_rate < proven.success_rate
    assert fallen.quality < nobody.quality < proven.quality
    assert history(*[BAD] * 100).success_rate > 0
    assert history(*[GOOD] * 10_000).success_rate < 1


def test_a_node_that_gets_no_work_drifts_back_to_what_an_unknown_one_has() -> None:
    bad = history(*[BAD] * 10)
    assert bad.success_rate < 0.4
    assert bad.as_of(10_000, RULES).success_rate == pytest.approx(NodeHistory().success_rate, abs=0.001)


@given(st.lists(st.tuples(ENDINGS, st.floats(0, 1e9)), max_size=30))
def test_no_order_of_endings_leaves_the_bounds(told: list[tuple[AttemptRecord, float]]) -> None:
    so_far = NodeHistory()
    for ending, now in told:
        later = after_end(so_far, ending, now, RULES)
        assert later.at >= so_far.at
        so_far = later
        assert 0 < so_far.success_rate < 1
        assert 0.5 <= so_far.relative_speed <= 2
        assert 0 <= so_far.quality <= 1
        assert so_far.quality == round(so_far.quality, 2)
        assert min(so_far.good, so_far.bad, so_far.speed_sum, so_far.speed_weight) >= 0


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_a_task_that_ran_to_its_end_is_good_for_its_node(outcome: Outcome) -> None:
    assert history(AttemptRecord(outcome=outcome)) == NodeHistory(good=1)


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.REFUSED])
def test_a_lost_or_refused_task_is_bad_for_its_node(outcome: Outcome) -> None:
    assert history(AttemptRecord(outcome=outcome)) == NodeHistory(bad=1, bad_streak=1)


def test_a_stop_counts_neither_way() -> None:
    assert history(GOOD, BAD, AttemptRecord(outcome=Outcome.STOPPED)) == history(GOOD, BAD)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_does_not_count_changes_nothing(outcome: Outcome) -> None:
    before = history(BAD, BAD, BAD)
    assert after_end(before, AttemptRecord(outcome=outcome, counts=False), 500, RULES) == before


def test_a_task_that_was_lost_elsewhere_before_weighs_less() -> None:
    assert history(AttemptRecord(outcome=Outcome.LOST, bad_before=3)) == NodeHistory(bad=0.25, bad_streak=1)


def test_three_bad_ends_in_a_row_put_a_node_on_probation_until_one_succeeds() -> None:
    assert not history(BAD, BAD).on_probation(RULES)
    assert not history(BAD, BAD, GOOD, BAD, BAD).on_probation(RULES)
    assert history(BAD, BAD, BAD).on_probation(RULES)
    assert not history(BAD, BAD, BAD, GOOD).on_probation(RULES)


def test_a_task_that_fails_by_itself_breaks_the_row_and_ends_no_probation() -> None:
    failed = AttemptRecord(outcome=Outcome.FAILED)
    assert not history(BAD, BAD, failed, BAD, BAD).on_probation(RULES)
    assert history(BAD, BAD, BAD, *[failed] * 5).on_probation(RULES)


def test_time_alone_ends_no_probation() -> None:
    assert history(BAD, BAD, BAD).as_of(1e9, RULES).on_probation(RULES)


def test_handing_back_is_no_crash_and_is_not_free() -> None:
    back = AttemptRecord(outcome=Outcome.REFUSED, handed_back=True)
    assert history(*[back] * 50).bad_streak == 0
    assert history(back).bad == pytest.approx(HANDED_BACK_WEIGHT)
    # One of twenty handed back is hardly seen; a node that hands back everything is.
    assert history(*[GOOD] * 19, back).success_rate > history(*[GOOD] * 19, BAD).success_rate + 0.03
    assert history(*[back] * 100).success_rate < history(BAD, BAD).success_rate
    assert history(BAD, BAD, BAD, back).on_probation(RULES)


@pytest.mark.parametrize(
    ("outcome", "draining", "active", "handed_back"),
    [
        (Outcome.REFUSED, False, True, False),
        (Outcome.REFUSED, True, True, True),
        (Outcome.LOST, True, True, False),
        (Outcome.LOST, False, False, True),
        (Outcome.REFUSED, True, False, True),
        (Outcome.SUCCEEDED, True, False, False),
    ],
)
def test_only_a_node_that_leaves_in_order_hands_back(
    outcome: Outcome, *, draining: bool, active: bool, handed_back: bool
) -> None:
    assert is_handed_back(outcome, draining=draining, active=active) is handed_back


def run(seconds: float, *, claimed: int = 1000, score: int = 4000, cores: int = 4) -> MeasuredRun:
    return MeasuredRun(seconds=seconds, claimed_score=claimed, node_score=score, node_cores=cores)


def test_a_node_that_takes_twice_as_long_for_the_same_points_has_half_the_speed() -> None:
    assert speed_of(run(200), [run(100), run(90), run(110)]) == pytest.approx(0.5)
    assert speed_of(run(80), [run(100)]) == pytest.approx(1.25)


def test_fewer_points_may_take_longer_without_being_slow() -> None:
    assert speed_of(run(200, claimed=500), [run(100, claimed=1000)]) == pytest.approx(1.0)


def test_who_claims_no_points_gets_a_core_and_a_slower_core_may_take_longer() -> None:
    slow_core, fast_core = run(200, claimed=0, score=2000), run(100, claimed=0, score=4000)
    assert speed_of(slow_core, [fast_core]) == pytest.approx(1.0)


def test_one_stuck_node_does_not_make_another_look_fast() -> None:
    assert speed_of(run(100), [run(100), run(100), run(100_000)]) == pytest.approx(1.0)


def test_one_comparison_says_no_more_than_its_bound() -> None:
    assert speed_of(run(10), [run(10_000)]) == MOST_SPEED_OF_ONE_RUN
    assert speed_of(run(10_000), [run(10)]) == 1 / MOST_SPEED_OF_ONE_RUN


@pytest.mark.parametrize(
    ("here", "elsewhere"),
    [
        (run(100), []),
        (run(1), [run(100)]),
        (run(100), [run(1)]),
        (run(100, score=0), [run(100)]),
        (run(100), [run(100, score=0)]),
        (run(100, claimed=0, cores=0, score=0), [run(100)]),
    ],
)
def test_where_nothing_can_be_compared_there_is_no_speed(
    here: MeasuredRun, elsewhere: list[MeasuredRun]
) -> None:
    assert speed_of(here, elsewhere) is None
    assert NodeHistory().relative_speed == 1.0


def test_of_equally_reliable_nodes_the_faster_has_more_quality_up_to_a_bound() -> None:
    def node(speed: float) -> NodeHistory:
        return history(*[AttemptRecord(outcome=Outcome.SUCCEEDED, speed=speed)] * 10)

    assert node(0.5).quality < node(1.0).quality < node(1.25).quality <= node(2.0).quality
    assert node(1.6).quality == node(2.0).quality


@pytest.mark.parametrize(
    ("said", "kept"),
    [(5.0, 5.0), (-1.0, 0.0), (1e300, 60.0), (math.nan, 0.0), (math.inf, 60.0), (-math.inf, 0.0)],
)
def test_what_a_node_says_it_used_is_kept_within_what_can_be(said: float, kept: float) -> None:
    assert believable(said, 60.0) == kept
