"""FLUSHALL in the middle of a loaded pool: Redis may forget everything, and nothing is lost."""

from __future__ import annotations

import pytest

from tests.support.faults import WAITS, attempts_of, await_begun, let_go
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script, unpacked

ABOUT_A_SECOND = "import time; print('begun', flush=True); time.sleep(1); print('done')"
# Agents wait two report periods before they believe that their work was given away: long enough for
# the sweep on a busy machine.
SETTINGS = {"REPORT_PERIOD_SECONDS": "2", "LEASE_SECONDS": "8", "NODE_LATE_SECONDS": "10"}


@pytest.fixture(scope="module")
def two_agents(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=2, settings=SETTINGS)


def test_all_tasks_of_a_loaded_pool_complete_once(two_agents: TestPool) -> None:
    pool = two_agents
    user = pool.register_user()
    tasks = [user.submit(script(ABOUT_A_SECOND)) for _ in range(20)]
    pool.wait(lambda: sum(user.poll(task).status == "COMPLETED" for task in tasks) >= 4, "four have ended")
    # However long the look at the others took, there is something left to be disturbed.
    tasks += [user.submit(script(ABOUT_A_SECOND)) for _ in range(4)]
    pool.valkey.admin.flushall()
    for task in tasks:
        user.wait_for(task, "COMPLETED", timeout=90)
    for task in tasks:
        finished = [row for row in attempts_of(pool, task) if row.state == "finished"]
        assert [row.exit_code for row in finished] == [0]
        assert unpacked(user.result(task))["task_logs.txt"] == b"begun\ndone\n"


def reserved(pool: TestPool) -> dict[str, dict[str, str]]:
    """What is reserved on each node; nothing of a resource may be written as 0 or not at all."""
    sums = {
        agent.node_id: pool.valkey.admin.hgetall(f"node:{agent.node_id}:reserved") for agent in pool.agents
    }
    return {
        node_id: {name: amount for name, amount in found.items() if amount != "0"}
        for node_id, found in sums.items()
    }


def test_running_tasks_go_on_and_what_redis_should_know_is_written_again(two_agents: TestPool) -> None:
    pool, redis = two_agents, two_agents.valkey.admin
    user = pool.register_user()
    tasks = [user.submit(script(WAITS)) for _ in range(4)]
    names = {task: await_begun(pool, user, task) for task in tasks}
    node_of = {task: user.detail(task).assigned_node for task in tasks}
    before = reserved(pool)
    redis.flushall()

    def known_again() -> bool:
        return all(redis.hexists(f"node:{node_of[task]}:assigned", pool.attempt(task)) for task in tasks)

    pool.wait(known_again, "the assignments are there again")
    assert reserved(pool) == before
    # A report that was wiped is no node that is gone.
    reports = [f"node:{agent.node_id}:report" for agent in pool.agents]
    redis.delete(*reports)
    pool.wait(lambda: redis.exists(*reports) == len(reports), "both nodes have reported again")
    for task in tasks:
        (agent,) = (agent for agent in pool.agents if agent.node_id == node_of[task])
        let_go(pool, agent, task)
        user.wait_for(task, "COMPLETED")
        assert [(row.number, row.state) for row in attempts_of(pool, task)] == [(1, "finished")]
        assert unpacked(user.result(task))["who.txt"].decode() == names[task]
        log = unpacked(user.result(task))["task_logs.txt"].decode()
        assert log == f"begun {names[task]}\ndone {names[task]}\n"
