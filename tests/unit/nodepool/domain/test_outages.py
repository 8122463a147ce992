"""What a process of the pool knows of its own outages: pure, with a clock in the test's hand."""

from __future__ import annotations

import pytest

from nodepool.domain.outages import OutageCause, OwnOutages
from nodepool.domain.patience import Patience


def outages(now: float = 100.0) -> OwnOutages:
    return OwnOutages(now, tolerated_seconds=5.0, still_seconds=15.0)


@pytest.mark.parametrize(
    ("gap", "failing", "cause"),
    [
        (2.0, False, None),
        (15.0, False, None),
        (15.1, False, OutageCause.STOOD_STILL),
        (180.0, False, OutageCause.STOOD_STILL),
        (5.0, True, None),  # nothing that anybody notices
        (5.1, True, OutageCause.UNREACHABLE),
        (60.0, True, OutageCause.UNREACHABLE),
    ],
)
def test_what_passes_between_two_good_looks_is_an_outage(
    *, gap: float, failing: bool, cause: OutageCause | None
) -> None:
    own = outages()
    assert own.worked(102.0) is None
    if failing:
        own.failed()
    ended = own.worked(102.0 + gap)
    assert (ended.cause if ended else None) is cause
    if ended:
        assert (ended.began_at, ended.ended_at) == (102.0, 102.0 + gap)
        assert own.last == ended


def test_trouble_is_told_once_and_ends_with_the_first_good_look() -> None:
    own = outages()
    assert own.failed(OutageCause.NO_GATEWAY)
    assert not own.failed()
    assert own.is_troubled
    ended = own.worked(120.0)
    assert ended is not None
    assert ended.cause is OutageCause.NO_GATEWAY
    assert not own.is_troubled
    assert own.failed()


@pytest.mark.parametrize(
    ("now", "age", "explained"),
    [
        (230.0, 100.0, True),  # was there when it began
        (230.0, 31.0, True),  # began during it
        (230.0, 29.0, False),  # began after it
        (275.0, 500.0, True),  # a long time to come back
        (276.0, 500.0, False),  # too long ago
    ],
)
def test_an_outage_explains_what_was_there_and_ended_soon_after(
    *, now: float, age: float, explained: bool
) -> None:
    own = outages()
    own.failed()
    own.worked(200.0)
    assert own.explains(now, age_seconds=age, within_seconds=75.0) is explained


def test_one_that_lasts_explains_everything_and_so_does_a_start() -> None:
    own = outages()
    assert own.explains(110.0, age_seconds=20.0, within_seconds=75.0)
    assert not own.explains(110.0, age_seconds=5.0, within_seconds=75.0)
    own.worked(110.0)
    own.failed()
    assert own.explains(500.0, age_seconds=1.0, within_seconds=75.0)


def test_what_was_forgotten_is_an_outage_however_short() -> None:
    own = outages()
    own.worked(110.0)
    assert own.broke(110.5, OutageCause.FORGOTTEN).seconds == 0.5
    assert own.explains(111.0, age_seconds=3.0, within_seconds=75.0)


def test_patience_begins_where_something_is_so_and_ends_where_it_is_not() -> None:
    patience = Patience()
    assert patience.seconds("a", 10.0, is_so=True) == 0.0
    assert patience.seconds("a", 12.0, is_so=True) == 2.0
    assert patience.seconds("b", 12.0, is_so=True) == 0.0
    assert patience.seconds("a", 13.0, is_so=False) == 0.0
    assert patience.seconds("a", 14.0, is_so=True) == 0.0
    patience.begin_anew()
    assert patience.seconds("b", 20.0, is_so=True) == 0.0
    patience.keep_only({"a"})
    assert patience.seconds("b", 21.0, is_so=True) == 0.0
