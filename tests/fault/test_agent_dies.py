"""Agents that die or freeze with running tasks: every task ends once, on another node."""

from __future__ import annotations

import grpc

from tests.conftest import PoolFactory
from tests.support.accounts import Account
from tests.support.faults import (
    WAITS,
    AttemptRow,
    attempts_of,
    await_begun,
    begun,
    late_effects,
    let_go,
    runs_of,
)
from tests.support.pool import TestAgent, TestPool
from tests.support.tasks import script, unpacked

REFUSED = dict.fromkeys(
    ("claim", "append", "succeeded", "failed", "lost"), grpc.StatusCode.FAILED_PRECONDITION
)


def begin_on(pool: TestPool, user: Account, count: int) -> dict[str, str]:
    """Tasks that run and wait: task id -> what its first run calls itself."""
    tasks = [user.submit(script(WAITS)) for _ in range(count)]
    return {task: await_begun(pool, user, task) for task in tasks}


def await_second_runs(pool: TestPool, user: Account, first: dict[str, str]) -> dict[str, str]:
    return {task: await_begun(pool, user, task, other_than=name) for task, name in first.items()}


def check_ended_once(
    pool: TestPool, user: Account, task: str, lost: TestAgent, other: TestAgent, name: str
) -> None:
    """COMPLETED by the second attempt on the other node, whose output and result are the task's."""
    assert attempts_of(pool, task) == [
        AttemptRow(1, lost.node_id, "lost", None),
        AttemptRow(2, other.node_id, "finished", 0),
    ]
    detail = user.detail(task)
    assert (detail.attempt_number, detail.assigned_node) == (2, other.node_id)
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    files = unpacked(user.result(task))
    assert files["who.txt"].decode() == name
    assert files["task_logs.txt"].decode() == f"begun {name}\ndone {name}\n"


def test_tasks_of_a_killed_agent_end_exactly_once_on_the_other_one(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=1)
    user = pool.register_user()
    (killed,) = pool.agents
    first = begin_on(pool, user, 3)
    other = pool.add_agent()
    killed.kill()
    second = await_second_runs(pool, user, first)

    for task in first:
        assert late_effects(pool, killed, task, 1) == REFUSED
        assert begun(user, task) == second[task]
    for task, name in second.items():
        let_go(pool, other, task, 2)
        user.wait_for(task, "COMPLETED")
        check_ended_once(pool, user, task, killed, other, name)
        assert late_effects(pool, killed, task, 1) == REFUSED
        check_ended_once(pool, user, task, killed, other, name)

    # What the dead one left on its machine is ended, and what it tells of it is refused.
    killed.start()
    pool.wait(lambda: killed.log().count("the node is online") == 2, "the killed agent is back")
    pool.wait(lambda: not runs_of(pool, killed), "its old runs are gone")
    for task, name in second.items():
        check_ended_once(pool, user, task, killed, other, name)
    task = user.submit(script("print('still here')"))
    user.wait_for(task, "COMPLETED")


def test_a_frozen_agent_that_thaws_after_its_lease_changes_nothing(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=1)
    user = pool.register_user()
    (frozen,) = pool.agents
    first = begin_on(pool, user, 2)
    other = pool.add_agent()
    frozen.freeze()
    second = await_second_runs(pool, user, first)
    assert runs_of(pool, frozen)  # nobody could end them
    for task in first:
        # What it would say now it says too late, however well its run ended.
        let_go(pool, frozen, task, 1)
    frozen.thaw()
    pool.wait(lambda: not runs_of(pool, frozen), "the thawed agent has ended its runs")
    pool.wait(lambda: refusals(frozen) >= len(first), "its late ends are refused")

    for task, name in second.items():
        assert late_effects(pool, frozen, task, 1) == REFUSED
        assert user.detail(task).state == "RUNNING"
        let_go(pool, other, task, 2)
        user.wait_for(task, "COMPLETED")
        check_ended_once(pool, user, task, frozen, other, name)
    task = user.submit(script("print('still here')"))
    user.wait_for(task, "COMPLETED")


def refusals(agent: TestAgent) -> int:
    """How many attempts the agent was told are not its own any more, or gave up by itself."""
    return agent.log().count("attempt.stale") + agent.log().count("cause=away")
