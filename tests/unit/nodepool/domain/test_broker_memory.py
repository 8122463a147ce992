"""When output gives way, and when hints do."""

from __future__ import annotations

from nodepool.domain.broker_memory import MemoryUse, output_room

MOST = 100


def test_a_server_without_a_limit_is_never_full() -> None:
    use = MemoryUse(10**12, 0)
    assert not use.is_full
    assert not use.is_nearly_full
    assert output_room(use, 10, MOST) == MOST


def test_output_has_at_most_a_quarter_of_the_memory() -> None:
    assert output_room(MemoryUse(100, 1000), 0, MOST) == MOST
    assert output_room(MemoryUse(100, 200), 0, MOST) == 50


def test_output_gives_way_by_what_is_too_much() -> None:
    assert output_room(MemoryUse(830, 1000), 90, MOST) == 60
    assert output_room(MemoryUse(990, 1000), 90, MOST) == 0


def test_hints_give_way_before_the_server_is_full() -> None:
    assert not MemoryUse(899, 1000).is_nearly_full
    assert MemoryUse(900, 1000).is_nearly_full
    assert not MemoryUse(999, 1000).is_full
    assert MemoryUse(1000, 1000).is_full
