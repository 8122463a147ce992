"""The pool's clock: it goes on whatever becomes of the wall clocks, and all parts agree on it."""

from __future__ import annotations

import pytest

from nodepool.clock import JUMP_SECONDS, PoolClock, SharedTime
from nodepool.domain.errors import UnavailableError

HOUR = 3600.0


class Machine:
    """The broker with its clock and the record, and the one monotonic clock of all processes here."""

    def __init__(self) -> None:
        self.monotonic, self.broker, self.skew = 100.0, 1_000_000.0, None
        self.away = False

    skew: float | None

    def read(self) -> SharedTime:
        if self.away:
            raise UnavailableError("away")
        return SharedTime(self.broker, self.skew)

    def correct(self, skew: float) -> None:
        self.skew = skew

    def clock(self, *, wall: float = 0.0) -> PoolClock:
        clock = PoolClock(self, monotonic=lambda: self.monotonic, wall=lambda: self.broker + wall)
        clock.sync()
        return clock

    def passes(self, seconds: float) -> None:
        self.monotonic += seconds
        self.broker += seconds


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 1200.0, -JUMP_SECONDS * 2])
def test_a_jump_of_the_brokers_clock_changes_nothing_for_anybody(jump: float) -> None:
    machine = Machine()
    gateway, dispatcher = machine.clock(), machine.clock()
    began = gateway()
    machine.passes(10)
    machine.broker += jump
    for clock in (gateway, dispatcher, gateway, dispatcher):
        clock.sync()
        machine.passes(5)
    newcomer = machine.clock()
    for clock in (gateway, dispatcher, newcomer):
        assert clock() - began == pytest.approx(30, abs=0.001)


@pytest.mark.parametrize("shift", [HOUR, -HOUR, 400 * 86400.0])
def test_a_part_whose_wall_clock_is_wrong_agrees_with_the_others(shift: float) -> None:
    machine = Machine()
    assert machine.clock()() == machine.clock(wall=shift)()


def test_what_the_broker_forgets_is_written_again() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.broker += HOUR
    clock.sync()
    clock.sync()
    machine.skew = None  # FLUSHALL
    before = clock()
    clock.sync()
    assert machine.skew == pytest.approx(-HOUR)
    assert clock() == machine.clock()() == pytest.approx(before)


def test_clocks_that_drift_apart_are_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.passes(10)
        machine.broker += 0.1
        clock.sync()
    assert (clock(), machine.skew) == (machine.broker, None)


def test_where_nothing_runs_dates_are_the_brokers_again() -> None:
    machine = Machine()
    one, other = machine.clock(), machine.clock()
    machine.broker += HOUR  # the machine was suspended
    for clock in (one, other):
        clock.sync()
        clock.sync()
    assert one() == other() == machine.broker - HOUR
    one.settle()
    for clock in (other, one):
        clock.sync()
        assert clock() == machine.broker


def test_while_the_broker_is_away_the_time_goes_on() -> None:
    machine = Machine()
    clock = machine.clock()
    began, machine.away = clock(), True
    machine.passes(60)
    clock.sync()
    clock.settle()
    assert clock() == began + 60
