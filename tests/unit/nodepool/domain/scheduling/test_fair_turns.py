"""Whose turn it is, and what a bucket lets through."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.accounts.token_buckets import Buckets
from nodepool.domain.errors import RateLimitedError
from nodepool.domain.scheduling.fair_turns import FairQueue, QueueBounds

BOUNDS = QueueBounds(width=2, of_one=1, waiting_of_one=3, waiting=5)


def _full() -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(BOUNDS)
    assert queue.begin("rude")
    assert not queue.begin("rude"), "one account has no more than its share"
    for number in range(3):
        queue.wait("rude", f"rude {number}")
    return queue


def test_an_account_that_sends_much_leaves_room_and_its_turn_to_others() -> None:
    queue = _full()
    assert queue.begin("kind"), "a place is left for everybody else"
    queue.wait("kind", "kind 0")
    queue.done("rude")
    assert queue.next() == ("rude", "rude 0")
    queue.done("kind")
    assert queue.next() == ("kind", "kind 0"), "and not what waited longer, but whose turn it is"
    assert queue.next() is None


def test_what_waits_is_bounded_for_one_and_for_all() -> None:
    queue = _full()
    with pytest.raises(RateLimitedError, match="wait for their turn") as told:
        queue.wait("rude", "one too many")
    assert told.value.retry_after_seconds > 0
    queue.wait("a", "a 0")
    queue.wait("b", "b 0")
    with pytest.raises(RateLimitedError, match="too busy"):
        queue.wait("c", "c 0")
    assert queue.waiting == 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_whatever_comes_and_ends_the_bounds_hold_and_nothing_is_lost(steps: list[tuple[str, bool]]) -> None:
    queue: FairQueue[str] = FairQueue(BOUNDS)
    running: list[str] = []
    waiting = 0
    for account, ends in steps:
        if ends and account in running:
            running.remove(account)
            queue.done(account)
            while following := queue.next():
                assert following[0] == following[1]
                running.append(str(following[0]))
                waiting -= 1
        elif queue.begin(account):
            running.append(account)
        else:
            try:
                queue.wait(account, account)
                waiting += 1
            except RateLimitedError:
                pass
        assert len(running) <= BOUNDS.width
        assert all(running.count(one) <= BOUNDS.of_one for one in running)
        assert queue.waiting == waiting <= BOUNDS.waiting


def test_a_bucket_lets_a_minutes_worth_through_and_says_when_there_is_more() -> None:
    buckets = Buckets(most_keys=10)
    assert all(buckets.take("a", 60, now=0.0) == 0.0 for _ in range(60))
    assert buckets.take("a", 60, now=0.0) == pytest.approx(1.0)
    assert buckets.take("b", 60, now=0.0) == 0.0, "others are counted by themselves"
    assert buckets.take("a", 60, now=1.01) == 0.0
    buckets.charge("a", 60, now=2.0, cost=1000)
    assert buckets.take("a", 60, now=2.0) == pytest.approx(61.0), "what is owed is a minute's worth at most"
    assert buckets.take("a", 60, now=63.1) == 0.0


def test_there_are_no_more_buckets_than_told() -> None:
    buckets = Buckets(most_keys=2)
    for key in ("a", "b", "c"):
        buckets.charge(key, 60, now=0.0, cost=60)
    assert buckets.take("c", 60, now=0.0) > 0
    assert buckets.take("a", 60, now=0.0) == 0.0
