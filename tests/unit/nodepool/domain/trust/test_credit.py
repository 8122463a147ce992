"""What moves a credit score: the table's rules, and that the documents say the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.trust.credit import (
    DRIFT_SECONDS,
    HIGHEST_SCORE,
    LOWEST_SCORE,
    MOVES,
    Cause,
    change_of,
    drift,
)
from nodepool.domain.trust.tiers import Tier, task_tier
from tests.support.environment import ROOT

NOW = 1_000_000_000.0
START = 50
scores = st.integers(LOWEST_SCORE, HIGHEST_SCORE)
starts = st.integers(LOWEST_SCORE, HIGHEST_SCORE)
causes = st.sampled_from([cause for cause in Cause if MOVES[cause].delta])


def test_every_cause_has_its_row() -> None:
    assert set(MOVES) == set(Cause)


def test_going_down_is_faster_than_going_up() -> None:
    ups = [move for move in MOVES.values() if move.delta > 0]
    downs = [move for move in MOVES.values() if move.delta < 0]
    assert {move.delta for move in ups} == {1}
    assert all(move.most_per_day for move in ups)
    bad = {Cause.LOST, Cause.LATE, Cause.DIFFERED, Cause.FALSE_CLAIM}
    assert all(MOVES[cause].delta < -1 for cause in bad)
    # In a day there is more to lose than to win, whatever happens.
    won = sum(move.most_per_day for move in ups)
    assert all((move.most_per_day or -move.delta) > won for move in downs)
    # One false result takes more days to win back than the false results of a day could earn.
    assert -MOVES[Cause.DIFFERED].delta >= 5 * MOVES[Cause.VERIFIED].most_per_day


@given(causes, scores, starts, st.integers(-100, 100))
def test_a_score_stays_within_its_bounds(cause: Cause, score: int, start: int, today: int) -> None:
    delta = change_of(cause, score, moved_today=today, start=start)
    assert LOWEST_SCORE <= score + delta <= HIGHEST_SCORE
    assert abs(delta) <= abs(MOVES[cause].delta)
    assert delta * MOVES[cause].delta >= 0


@given(causes, scores, starts, st.integers(1, 400))
def test_a_cause_moves_no_more_in_a_day_than_its_row_says(
    cause: Cause, score: int, start: int, events: int
) -> None:
    most = MOVES[cause].most_per_day
    moved = 0
    for _ in range(events):
        moved += change_of(cause, score + moved, moved_today=moved, start=start)
    if most:
        assert abs(moved) <= most
    assert LOWEST_SCORE <= score + moved <= HIGHEST_SCORE


def test_a_probe_only_wins_back_what_was_lost() -> None:
    assert change_of(Cause.PROBED, 49, moved_today=0, start=START) == 1
    assert change_of(Cause.PROBED, 50, moved_today=0, start=START) == 0
    assert change_of(Cause.PROBED, 30, moved_today=0, start=20) == 0


@given(scores, starts, st.floats(0, 10**8), st.floats(0, 10**8))
def test_drift_goes_towards_the_start_and_never_past_it(
    score: int, start: int, first: float, second: float
) -> None:
    points, since = drift(score, NOW, NOW + first, start)
    assert min(score, start) <= score + points <= max(score, start)
    more, _ = drift(score + points, since, NOW + first + second, start)
    at_once, _ = drift(score, NOW, NOW + first + second, start)
    # Looked at often or seldom, it is the same.
    assert points + more == at_once


def test_a_point_takes_a_week() -> None:
    assert drift(20, NOW, NOW + DRIFT_SECONDS - 1, START) == (0, NOW)
    assert drift(20, NOW, NOW + DRIFT_SECONDS, START) == (1, NOW + DRIFT_SECONDS)
    assert drift(80, NOW, NOW + 2.5 * DRIFT_SECONDS, START) == (-2, NOW + 2 * DRIFT_SECONDS)
    assert drift(51, NOW, NOW + 9 * DRIFT_SECONDS, START) == (-1, NOW + 9 * DRIFT_SECONDS)


def test_a_score_that_never_drifted_begins_to_now() -> None:
    assert drift(500, 0.0, NOW, START) == (0, NOW)


def test_a_clock_that_was_set_back_moves_nothing() -> None:
    assert drift(500, NOW, NOW - 10, START) == (0, NOW)


@given(scores)
def test_whoever_waits_ends_where_newcomers_begin(score: int) -> None:
    """So an old account that was bad is at best as good as a new one, and never better."""
    points, _ = drift(score, NOW, NOW + HIGHEST_SCORE * DRIFT_SECONDS, START)
    assert score + points == START


def test_a_newcomer_in_an_open_pool_cannot_idle_into_trust() -> None:
    """With a start value below normal, neither time nor probes lead out of the lowest tier."""
    start = 20
    score = start
    for _ in range(1000):
        score += change_of(Cause.PROBED, score, moved_today=0, start=start)
    assert task_tier(score) is Tier.LOW


def _documented() -> dict[str, tuple[str, str, str]]:
    text = (ROOT / "docs" / "money.md").read_text()
    table = text.split("<!-- credit causes -->")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|", table, flags=re.MULTILINE)
    return {name: (delta, most, meaning.strip()) for name, delta, most, meaning in rows}


@pytest.mark.parametrize("cause", list(Cause))
def test_the_document_has_the_same_table(cause: Cause) -> None:
    move = MOVES[cause]
    delta = f"{move.delta:+d}" if move.delta else "±"
    most = str(move.most_per_day) if move.most_per_day else "no bound"
    assert _documented()[cause] == (delta, most, move.meaning)


def test_the_document_names_no_other_cause() -> None:
    assert set(_documented()) == {cause.value for cause in Cause}
