"""An agent behind a link that is cut: its work runs elsewhere, once, and it goes on afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.faults import (
    REFUSED,
    WAITS,
    attempts_of,
    await_begun,
    await_second_runs,
    begin_on,
    check_ended_once,
    late_effects,
    let_go,
    refusals,
    runs,
    runs_of,
)
from tests.support.namespace import Namespace, namespace
from tests.support.pool import PoolFactory, TestAgent, TestPool
from tests.support.socket_proxy import PortProxy
from tests.support.tasks import script

# Far enough apart that even a busy machine ends an exclusive run before the pool gives it away.
SETTINGS = {"REPORT_PERIOD_SECONDS": "1", "LEASE_SECONDS": "4", "NODE_LATE_SECONDS": "12"}

WAYS: dict[str, tuple[Callable[[Namespace], None], Callable[[Namespace], None]]] = {
    "the cable is pulled": (Namespace.unplug, Namespace.plug_in),
    "everything is lost on the way": (Namespace.lose_everything, Namespace.lose_nothing),
}


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture(scope="module")
def ways_in(network: Namespace) -> Iterator[tuple[PortProxy, PortProxy]]:
    """To the gateway and to the broker, which listen on loopback only."""
    gateway, broker = PortProxy(network.host), PortProxy(network.host)
    yield gateway, broker
    gateway.cut()
    broker.cut()


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory, ways_in: tuple[PortProxy, PortProxy]) -> TestPool:
    gateway, broker = ways_in
    settings = {**SETTINGS, "AGENT_REDIS_URL": f"redis://{broker.address}/0"}
    # Its agents come later: they need the ways in.
    pool = pool_factory(agents=0, settings=settings)
    gateway.target_port, broker.target_port = pool.port, pool.valkey.port
    return pool


@pytest.fixture
def remote(
    pool: TestPool, network: Namespace, ways_in: tuple[PortProxy, PortProxy], request: pytest.FixtureRequest
) -> Iterator[TestAgent]:
    """An agent behind the link, in a region of its own."""
    arguments = ("--gateway", ways_in[0].address, "--allow-insecure-plaintext")
    name = f"remote{len(pool.agents)}"
    agent = pool.add_agent(name, location="Europe", within=network.within, arguments=arguments)
    yield agent
    agent.stop()


@pytest.mark.parametrize(("cut", "mend"), WAYS.values(), ids=WAYS.keys())
def test_what_a_cut_network_held_ends_elsewhere_once_and_is_ended_there_when_somebody_answers(
    pool: TestPool,
    network: Namespace,
    remote: TestAgent,
    cut: Callable[[Namespace], None],
    mend: Callable[[Namespace], None],
) -> None:
    user = pool.register_user()
    first = begin_on(pool, user, 2)
    other = pool.add_agent()
    assert {user.detail(task).assigned_node for task in first} == {remote.node_id}
    cut(network)
    try:
        # It cannot know that it is the one that is cut off.
        second = await_second_runs(pool, user, first)
        for task in first:
            assert late_effects(pool, remote, task, 1) == REFUSED
            assert runs(pool, remote, task)
    finally:
        mend(network)
    pool.wait(lambda: not runs_of(pool, remote), "what was given away is ended when somebody answers")
    pool.wait(lambda: refusals(remote) >= len(first), "its late ends are refused")

    for task, name in second.items():
        assert user.detail(task).state == "RUNNING"
        let_go(pool, other, task, 2)
        user.wait_for(task, "COMPLETED")
        check_ended_once(pool, user, task, remote, other, name)
        assert late_effects(pool, remote, task, 1) == REFUSED
    # Behind the link work goes on.
    task = user.submit(script("print('back again')"), location="Europe")
    user.wait_for(task, "COMPLETED")
    assert user.detail(task).assigned_node == remote.node_id
    other.stop()


def test_an_exclusive_run_behind_a_cut_ends_before_its_task_is_given_away(
    pool: TestPool, network: Namespace, remote: TestAgent
) -> None:
    user = pool.register_user()
    task = user.submit(script(WAITS), exclusive=True)
    await_begun(pool, user, task)
    assert (user.detail(task).assigned_node, user.detail(task).exclusive) == (remote.node_id, True)
    network.unplug()
    try:
        pool.wait(lambda: not runs_of(pool, remote), "the lease has ended the run behind the cut")
        assert [row.state for row in attempts_of(pool, task)] == ["running"]
    finally:
        network.plug_in()
    pool.wait(lambda: attempts_of(pool, task)[0].state == "lost", "it says so when it is back")
    user.stop(task)
