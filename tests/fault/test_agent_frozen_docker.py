"""An agent that freezes with running containers and thaws after its lease: they end, and change nothing."""

from __future__ import annotations

import docker
import pytest

from tests.support.faults import (
    REFUSED,
    await_second_runs,
    begin_on,
    check_ended_once,
    late_effects,
    let_go,
    refusals,
)
from tests.support.pool import PoolFactory, TestAgent
from tests.support.tasks import script

pytestmark = pytest.mark.docker


def containers(engine: docker.DockerClient, agent: TestAgent) -> set[str]:
    """The attempts that have a container of this agent, running or not."""
    found = engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"hivemind.node={agent.node_id}"}
    )
    return {container.labels["hivemind.attempt"] for container in found}


def test_containers_of_a_frozen_agent_are_gone_after_the_thaw_and_tell_nothing(
    pool_factory: PoolFactory, docker_engine: docker.DockerClient
) -> None:
    pool = pool_factory(agents=1, runner="docker")
    user = pool.register_user()
    (frozen,) = pool.agents
    first = begin_on(pool, user, 2)
    other = pool.add_agent()
    frozen.freeze()
    second = await_second_runs(pool, user, first)
    # Nobody but the frozen one could end them.
    assert containers(docker_engine, frozen) == {pool.attempt(task) for task in first}
    # One of the two has ended well by the time of the thaw; the other one still runs.
    let_go(pool, frozen, next(iter(first)), 1)
    frozen.thaw()
    pool.wait(lambda: not containers(docker_engine, frozen), "the thawed agent has ended its containers")
    pool.wait(lambda: refusals(frozen) >= len(first), "its late ends are refused")

    for task, name in second.items():
        assert late_effects(pool, frozen, task, 1) == REFUSED
        assert user.detail(task).state == "RUNNING"
        let_go(pool, other, task, 2)
        user.wait_for(task, "COMPLETED")
        check_ended_once(pool, user, task, frozen, other, name)
    task = user.submit(script("print('still here')"))
    user.wait_for(task, "COMPLETED")
