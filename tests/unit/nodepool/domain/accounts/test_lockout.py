"""How long wrong passwords lock a name."""

from __future__ import annotations

from hypothesis import given, strategies as st

from nodepool.domain.accounts.lockout import LONGEST_SECONDS, LockRules

RULES = LockRules(after=5, first_seconds=30.0)


def test_the_first_few_cost_nothing_and_each_further_one_doubles_the_time() -> None:
    assert [RULES.seconds(failures) for failures in range(3, 10)] == [0, 0, 30, 60, 120, 240, 480]


def test_nothing_is_locked_for_more_than_an_hour() -> None:
    assert RULES.seconds(12) == RULES.seconds(10**9) == LONGEST_SECONDS == 3600


def test_zero_seconds_lock_never() -> None:
    assert LockRules(after=1, first_seconds=0.0).seconds(1000) == 0


@given(st.integers(1, 100), st.floats(0, 1e6), st.integers(0, 10**6))
def test_a_further_wrong_one_never_shortens_it(after: int, first_seconds: float, failures: int) -> None:
    rules = LockRules(after, first_seconds)
    assert 0 <= rules.seconds(failures) <= rules.seconds(failures + 1) <= LONGEST_SECONDS
