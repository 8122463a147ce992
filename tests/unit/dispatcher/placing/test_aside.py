"""What follows placements is done in order, by another thread, and its failure is nobody's."""

from __future__ import annotations

import threading

import pytest

from dispatcher.placing import aside as module
from dispatcher.placing.aside import Aside
from nodepool.domain.errors import UnavailableError


def test_before_it_is_started_it_is_done_at_once() -> None:
    done: list[int] = []
    Aside().do(lambda: done.append(1))
    assert done == [1]


def test_it_is_done_in_order_and_before_the_end_and_a_failure_stops_nothing() -> None:
    aside, go, done = Aside(), threading.Event(), list[int]()

    def away() -> None:
        raise UnavailableError("away")

    aside.start()
    aside.do(go.wait)
    aside.do(away)
    for number in range(5):
        aside.do(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == []
    go.set()
    aside.stop()
    assert done == [0, 1, 2, 3, 4]


def test_whoever_places_waits_when_too_much_is_left_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 1)
    aside, done = Aside(), list[int]()
    aside.start()
    for number in range(3):
        aside.do(lambda number=number: done.append(number))  # type: ignore[misc]
        assert len(done) >= number
    aside.stop()
