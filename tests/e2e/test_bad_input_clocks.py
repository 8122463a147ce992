"""Agents whose clocks are an hour off: the pool goes by its own."""

from __future__ import annotations

import time

import pytest

from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script

HOUR = 3600
# The agent as ever, where it asks the wall clock. (Not time.time: gRPC takes its deadlines from there, and
# compares them with the kernel's clock.)
WITH_CLOCK = (
    "import runpy, time; from worker_agent import wall_clock; "
    "wall_clock.now = lambda: time.time() + ({offset}); runpy.run_module('worker_agent', run_name='__main__')"
)
ALLOWANCE_SECONDS = 60


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0)


@pytest.mark.parametrize("offset", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_an_agent_with_a_wrong_clock_works_and_its_times_are_the_pools(pool: TestPool, offset: int) -> None:
    user, began = pool.register_user(), time.time()
    agent = pool.add_agent(f"clock{offset}", program=("-c", WITH_CLOCK.format(offset=offset)))
    try:
        report = str(pool.valkey.admin.get(f"node:{agent.node_id}:report"))
        assert f'"at":{int((began + offset) / 10_000)}' in report, "the agent's clock is not off"
        (node,) = (node for node in user.node_list() if node.node_id == agent.node_id)
        assert node.status == "ONLINE"
        assert abs(node.last_heartbeat - time.time()) < ALLOWANCE_SECONDS
        task = user.submit(script("print('on time')"))
        user.wait_for(task, "COMPLETED")
        detail = user.detail(task)
        assert (detail.assigned_node, detail.attempt_number) == (agent.node_id, 1)
        for at in (detail.started_at, detail.finished_at):
            assert began - 1 < at < time.time() + 1
    finally:
        agent.stop()
