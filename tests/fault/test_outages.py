"""The pool itself is away, in every way: no run ends, nobody is blamed, and what ended meanwhile is kept.

OUTAGE_SECONDS makes them longer, as `make long` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.faults import AttemptRow, attempts_of, begin_on, let_go
from tests.support.pool import PoolFactory, TestPool

SETTINGS = {"REPORT_PERIOD_SECONDS": "1", "LEASE_SECONDS": "4", "NODE_LATE_SECONDS": "5"}
# Longer than any node may be silent in good times.
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "8"))


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=2, settings=SETTINGS)


def broker_stands_still(pool: TestPool) -> Callable[[], None]:
    pool.valkey.freeze()
    return pool.valkey.thaw


def broker_is_killed(pool: TestPool) -> Callable[[], None]:
    pool.valkey.kill()
    return pool.valkey.restart


def everything_stands_still(pool: TestPool) -> Callable[[], None]:
    parts = (pool.dispatcher, pool.gateway, pool.valkey.process)
    for part in parts:
        part.freeze()

    def thaw() -> None:
        for part in parts:
            part.thaw()

    return thaw


def everything_is_killed(pool: TestPool) -> Callable[[], None]:
    for part in (pool.dispatcher, pool.gateway, pool.valkey.process):
        part.kill()

    def start() -> None:
        pool.valkey.start()
        pool.start_gateway()
        pool.dispatcher.start()

    return start


WAYS = (broker_stands_still, broker_is_killed, everything_stands_still, everything_is_killed)


def score(owner: Account) -> int:
    return owner.stubs.users.GetCredit(
        pb.GetCreditRequest(), metadata=owner.metadata, timeout=CALL_SECONDS
    ).score


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_no_run_ends_by_it_and_nobody_pays(
    pool: TestPool, way: Callable[[TestPool], Callable[[], None]]
) -> None:
    user, before = pool.register_user(), score(pool.owner)
    tasks = begin_on(pool, user, 3)
    agents = {agent.node_id: agent for agent in pool.agents}
    node_of = {task: agents[user.detail(task).assigned_node] for task in tasks}
    ended, *waiting = tasks
    began = time.monotonic()
    end = way(pool)
    try:
        # One ends while nobody can be told of it.
        let_go(pool, node_of[ended], ended)
        pool.wait(
            lambda: time.monotonic() - began > OUTAGE_SECONDS,
            "the outage is long enough",
            OUTAGE_SECONDS + 60,
        )
    finally:
        end()
    user.wait_for(ended, "COMPLETED")
    pool.wait(lambda: all(node.status == "ONLINE" for node in user.node_list()), "all nodes are heard again")
    for task in waiting:
        let_go(pool, node_of[task], task)
    for task, agent in node_of.items():
        user.wait_for(task, "COMPLETED")
        assert attempts_of(pool, task) == [AttemptRow(1, agent.node_id, "finished", 0)]
    assert score(pool.owner) == before
    assert not any(node.on_probation for node in user.node_list())
