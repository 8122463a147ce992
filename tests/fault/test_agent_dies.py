"""Agents that die or freeze with running tasks: every task ends once, on another node."""

from __future__ import annotations

from tests.support.faults import (
    REFUSED,
    await_second_runs,
    begin_on,
    begun,
    check_ended_once,
    late_effects,
    let_go,
    refusals,
    runs_of,
)
from tests.support.pool import PoolFactory
from tests.support.tasks import script


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


def test_a_frozen_agent_that_thaws_when_its_work_is_gone_changes_nothing(
    pool_factory: PoolFactory,
) -> None:
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
