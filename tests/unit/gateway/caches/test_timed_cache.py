"""Values kept for a moment: many questions, one look."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.caches.timed_cache import TimedCache
from nodepool.domain.errors import UnavailableError


class Looks:
    """Counts how often it was looked, and by what clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.count = 0
        self.takes = 0.0
        self.away = False

    def look(self) -> int:
        self.count += 1
        self.now += self.takes
        if self.away:
            raise UnavailableError("away")
        return self.count

    def kept(self, seconds: float = 1.0) -> TimedCache[int]:
        return TimedCache(self.look, seconds, lambda: self.now)


def test_a_value_is_made_once_until_its_time_is_over() -> None:
    looks = Looks()
    kept = looks.kept()
    assert [kept.get(), kept.get()] == [1, 1]
    looks.now += 1.0
    assert kept.get() == 2


def test_what_takes_long_to_make_is_made_less_often() -> None:
    looks = Looks()
    looks.takes = 2.0
    kept = looks.kept()
    kept.get()
    looks.now += 7.9
    assert kept.get() == 1
    looks.now += 0.2
    assert kept.get() == 2


def test_that_it_cannot_be_made_is_kept_too() -> None:
    looks = Looks()
    looks.away = True
    kept = looks.kept()
    for _ in range(3):
        with pytest.raises(UnavailableError, match="away"):
            kept.get()
    assert looks.count == 1
    looks.away = False
    looks.now += 1.0
    assert kept.get() == 2


def test_many_who_ask_at_once_share_one_look() -> None:
    looks = Looks()
    kept = looks.kept()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: kept.get(), range(50))) == {1}


def test_nobody_waits_for_a_new_value_while_the_old_one_will_do() -> None:
    now = [0.0]
    begun, end = threading.Event(), threading.Event()
    made: list[int] = []

    def look() -> int:
        if made:
            begun.set()
            assert end.wait(60)
        made.append(1)
        return len(made)

    kept = TimedCache(look, 1.0, lambda: now[0])
    assert kept.get() == 1
    now[0] = 2.0
    with ThreadPoolExecutor(1) as pool:
        newer = pool.submit(kept.get)
        assert begun.wait(60)
        assert kept.get() == 1
        end.set()
        assert newer.result(30) == 2
    assert kept.get() == 2
