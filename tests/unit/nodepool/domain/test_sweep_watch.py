"""When the sweep stands still, by its mark and the watcher's own clock alone."""

from __future__ import annotations

import pytest

from nodepool.domain.sweep_watch import (
    LEAST_SECONDS,
    START_SECONDS,
    SweepMark,
    SweepWatch,
    allowed_seconds,
)


def mark(number: int, *, period: float = 2.0, seconds: float = 0.0, places: bool = True) -> SweepMark:
    return SweepMark(f"a:{number}", period, seconds, places)


def swept(*, until: float = 10.0) -> SweepWatch:
    """A watcher from 0 on that saw passes end at 8 and at `until`."""
    watch = SweepWatch(0.0)
    for number, at in enumerate((8.0, until)):
        watch.saw(mark(number), at)
    return watch


def test_a_sweep_is_late_after_three_of_its_periods() -> None:
    watch = swept(until=10.0)
    assert watch.problem(16.0) == ""
    assert watch.problem(16.1) == "no dispatcher has worked for 6 s"
    assert watch.age_seconds(16.1) == pytest.approx(6.1)


def test_a_mark_that_stays_the_same_is_no_sign_of_life() -> None:
    watch = swept(until=10.0)
    for now in (11.0, 13.0, 20.0):
        watch.saw(mark(1), now)
    assert watch.problem(20.0)


def test_it_is_well_again_with_the_next_pass() -> None:
    watch = swept(until=10.0)
    assert watch.problem(100.0)
    watch.saw(mark(2), 100.0)
    assert watch.problem(100.0) == ""


def test_a_broker_that_forgot_the_mark_makes_nobody_late_before_time() -> None:
    watch = swept(until=10.0)
    watch.saw(None, 12.0)
    assert watch.problem(15.0) == ""


def test_a_pool_that_starts_has_time_whatever_lies_there_of_its_last_life() -> None:
    watch = SweepWatch(0.0)
    watch.saw(mark(77), 0.5)
    assert watch.problem(START_SECONDS) == ""
    assert "since this gateway began" in watch.problem(START_SECONDS + 1)


@pytest.mark.parametrize(
    ("period", "seconds", "allowed"),
    [(2.0, 0.0, 6.0), (2.0, 5.0, 21.0), (0.1, 0.0, LEAST_SECONDS)],
    ids=["three periods", "a pass that takes long", "never less"],
)
def test_a_period_is_as_long_as_it_really_is(period: float, seconds: float, allowed: float) -> None:
    assert allowed_seconds(mark(1, period=period, seconds=seconds)) == pytest.approx(allowed)


def test_a_dispatcher_that_sweeps_and_does_not_place_is_not_well() -> None:
    watch = swept()
    watch.saw(mark(5, places=False), 11.0)
    assert watch.problem(11.0) == "the dispatcher sweeps and does not place tasks any more"
