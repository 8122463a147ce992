"""Parts of the pool whose machines' clocks are wrong, on one real broker: they agree all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatcher import context
from dispatcher.context import Dispatcher
from nodepool.clock import PoolClock
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import connect
from nodepool.stores.redis.pool_time import BrokerTime
from nodepool.stores.sql import tasks as task_store
from tests.support.databases import sqlite_file
from tests.support.fleet import Fleet
from tests.support.stores import add_user, attempt_of
from tests.support.valkey import TestValkey

HOUR = 3600.0


class Machine:
    """A machine with a wall clock of its own, and a monotonic clock that a test moves on."""

    def __init__(self, settings: Settings, wall: float) -> None:
        self.elapsed = 0.0
        self._settings = settings
        client = connect(settings)
        seconds = BrokerTime(client).read().there
        self.clock = PoolClock(
            BrokerTime(client), monotonic=lambda: self.elapsed, wall=lambda: seconds + wall
        )
        self.clock.sync()

    def dispatcher(self) -> Dispatcher:
        return context.build(self._settings, clock=self.clock)


@pytest.fixture
def settings(valkey: TestValkey, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path,
        }
    )


@pytest.mark.parametrize("wrong", [HOUR, -HOUR])
def test_a_dispatcher_an_hour_off_ends_nothing_and_gives_no_slot_away_twice(
    settings: Settings, wrong: float
) -> None:
    right, off = Machine(settings, 0.0), Machine(settings, wrong)
    one, other = right.dispatcher(), off.dispatcher()
    owner = one.database.write(add_user)
    fleet = Fleet(one, [right.clock()], owner)
    fleet.node("n1", max_tasks=2)
    running = [fleet.placed(max_minutes=1) for _ in range(2)]
    for task_id in running:
        attempt = attempt_of(one.database, task_id)
        one.database.write(
            lambda c, attempt=attempt: task_store.claim_attempt(c, attempt, "n1", owner, right.clock())
        )
    # What is reserved and not in SQL yet is about to be: another dispatcher leaves it alone.
    waiting = [fleet.task() for _ in range(2)]
    second = Fleet(other, [off.clock()], owner)
    for _ in range(3):
        second.report("n1")
        second.sweeper.sweep()
        assert second.place(*waiting) == 0
    assert set(fleet.states(*running)) == {"RUNNING"}
    assert set(fleet.states(*waiting)) == {"QUEUED"}
    assert fleet.reserved("n1").tasks == 2
    one.close()
    other.close()


def test_a_correction_is_shared_through_the_broker_and_survives_its_loss(settings: Settings) -> None:
    client = connect(settings)
    record = BrokerTime(client)
    assert record.read().skew is None
    record.correct(-12.5)
    assert record.read().skew == -12.5
    stale = BrokerTime(client)  # it has read nothing: somebody else was first
    stale.correct(99.0)
    assert record.read().skew == -12.5
    machine = Machine(settings, HOUR)
    assert abs(machine.clock() - (record.read().there - 12.5)) < 1
    client.delete(keys.POOL_TIME)
    machine.clock.sync()
    machine.clock.sync()
    assert record.read().skew == pytest.approx(-12.5, abs=1)
    client.close()
