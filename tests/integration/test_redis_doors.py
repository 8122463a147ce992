"""The doors to Redis that gateways and dispatchers share: their library's errors stay behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import client as doors
from nodepool.stores.redis.connections import Connections
from nodepool.stores.redis.rate_counters import RateCounters
from nodepool.stores.redis.subscription import ChannelMessage, subscription
from nodepool.stores.redis.sweep_lock import LockHolder, SweepLock
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture
def client(valkey: TestValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as opened:
        yield opened


def test_one_dispatcher_sweeps_until_redis_forgets_it(client: redis.Redis) -> None:
    first, second = SweepLock(client), SweepLock(client)
    assert [first.take(60), first.take(60), second.take(60)] == [
        LockHolder.OURS_NOW,
        LockHolder.STILL_OURS,
        LockHolder.ANOTHER,
    ]
    client.flushdb()
    assert [second.take(60), first.take(60)] == [LockHolder.OURS_NOW, LockHolder.ANOTHER]


def test_a_subscription_says_when_it_begins_and_what_is_said(client: redis.Redis) -> None:
    with subscription(client, "a") as heard:
        found: list[ChannelMessage] = []

        def came(count: int) -> bool:
            found.extend(filter(None, [heard.next(0.1)]))
            return len(found) >= count

        wait_until(lambda: came(1), "the subscription begins")
        client.publish("a", "said")
        wait_until(lambda: came(2), "it is heard")
        heard.subscribe(b"b")
        heard.unsubscribe(b"a")
        wait_until(lambda: came(3), "the other one begins")
    assert found == [
        ChannelMessage(b"a", b"", begins=True),
        ChannelMessage(b"a", b"said"),
        ChannelMessage(b"b", b"", begins=True),
    ]


@pytest.mark.parametrize(
    "work",
    [
        lambda client: SweepLock(client).take(60),
        lambda client: RateCounters(client).count(["rate:a"], most=1, window_seconds=60),
        lambda client: RateCounters(client).give_back(["rate:a"]),
        lambda client: RateCounters(client).add(["rate:a"], [1], kept_seconds=60),
        lambda client: Connections(client).listed(),
        lambda client: ExitStack().enter_context(subscription(client, "a")),
    ],
)
def test_redis_that_is_away_is_an_error_of_the_pool(work: Callable[[redis.Redis], object]) -> None:
    with redis.Redis(port=1, socket_timeout=0.2) as away, pytest.raises(UnavailableError):
        work(away)


def test_a_key_of_another_kind_is_no_error_of_redis_to_who_counts(client: redis.Redis) -> None:
    client.set("rate:a", "not a number", ex=60)
    with pytest.raises(UnavailableError):
        RateCounters(client).add(["rate:a"], [1], kept_seconds=60)


def test_whether_a_server_answers(valkey: TestValkey) -> None:
    assert doors.answers(valkey.url, 2.0)
    assert not doors.answers("redis://127.0.0.1:1/0", 0.2)
