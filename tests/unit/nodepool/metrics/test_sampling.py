"""A scrape reads nothing that nobody asked for, never hangs, and never shows what is old as the present."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import SampledMetric, Samples
from nodepool.metrics.sampling import Sampler, Source
from tests.support.waiting import wait_until


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Reads:
    """A source that says how often it was read, and that can be held up."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.times = 0
        self.takes_seconds = 0.0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Mapping[SampledMetric, Samples]:
        assert self.gate.wait(60)
        self.times += 1
        self.time.now += self.takes_seconds
        if self.fails:
            raise RuntimeError("away")
        return {catalogue.broker_clients: {(): float(self.times)}}


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def reads(time: Time) -> Iterator[Reads]:
    source = Reads(time)
    yield source
    source.gate.set()


@pytest.fixture
def scrape(time: Time, reads: Reads) -> Callable[[], dict[str, float]]:
    sampler = Sampler([Source("broker", reads, 5.0)], time)

    def values() -> dict[str, float]:
        return {sample.name: sample.value for family in sampler.collect() for sample in family.samples}

    return values


CLIENTS, AGE = "hivemind_broker_clients", "hivemind_sample_age_seconds"


def test_nothing_is_read_before_somebody_scrapes(time: Time, reads: Reads) -> None:
    sampler = Sampler([Source("broker", reads, 5.0)], time)
    assert list(sampler.describe()) == []
    assert reads.times == 0


def test_many_scrapes_of_one_period_read_once(
    time: Time, reads: Reads, scrape: Callable[[], dict[str, float]]
) -> None:
    assert [scrape()[CLIENTS] for _ in range(5)] == [1.0] * 5
    time.now += 5.1
    assert scrape()[CLIENTS] == 2.0


def test_what_takes_long_is_read_seldom(
    time: Time, reads: Reads, scrape: Callable[[], dict[str, float]]
) -> None:
    reads.takes_seconds = 10.0
    scrape()
    time.now += 100.0
    assert scrape()[CLIENTS] == 1.0, "ten seconds of reading are a fiftieth of the time at the most"
    time.now += 400.0
    assert scrape()[CLIENTS] == 2.0


def test_a_source_that_hangs_costs_a_scrape_a_moment_and_its_age_grows(
    time: Time, reads: Reads, scrape: Callable[[], dict[str, float]]
) -> None:
    assert scrape()[CLIENTS] == 1.0
    reads.gate.clear()
    time.now += 20.0
    assert scrape()[CLIENTS] == 1.0
    for _ in range(3):
        time.now += 20.0
        found = scrape()
    assert CLIENTS not in found, "what is old is not shown as the present"
    assert found[AGE] == pytest.approx(80.0)
    assert len([it for it in threading.enumerate() if it.name == "sample broker"]) == 1
    reads.gate.set()
    wait_until(lambda: scrape().get(CLIENTS) == 2.0, "what was held up is shown")


def test_a_source_that_fails_is_counted_and_tried_again(
    time: Time, reads: Reads, scrape: Callable[[], dict[str, float]]
) -> None:
    reads.fails = True
    found = scrape()
    assert CLIENTS not in found
    assert found["hivemind_sample_failures_total"] == 1.0
    reads.fails = False
    time.now += 5.1
    assert scrape()[CLIENTS] == 2.0
