"""Two agents that are started with one node id: the later one has the node, the earlier one ends."""

from __future__ import annotations

from tests.support.faults import WAITS, attempts_of, await_begun, let_go, runs_of
from tests.support.pool import PoolFactory, TestAgent, TestPool
from tests.support.tasks import script

EXIT_REPLACED = 3


def start_another(pool: TestPool, agent: TestAgent) -> TestAgent:
    """The same node on another machine, as far as its own files go."""
    data_dir = str(pool.folder / "agent-another")
    name = agent.node_id.rpartition("/")[2]
    another = pool.add_agent(
        "another", agent.owner, arguments=("--node", name, "--data-dir", data_dir), wait=False
    )
    another.node_id = agent.node_id
    pool.wait_online(another)
    return another


def test_the_later_agent_has_the_node_and_the_earlier_one_ends_with_its_runs(
    pool_factory: PoolFactory,
) -> None:
    pool = pool_factory(agents=1)
    user = pool.register_user()
    (first,) = pool.agents
    tasks = [user.submit(script(WAITS)) for _ in range(2)]
    names = {task: await_begun(pool, user, task) for task in tasks}
    another = start_another(pool, first)

    pool.wait(lambda: not first.is_running, "the first agent has ended")
    assert first.process.returncode == EXIT_REPLACED
    assert "another agent has been started as node" in first.log()
    assert runs_of(pool, first) == []
    for task in tasks:
        second = await_begun(pool, user, task, other_than=names[task])
        let_go(pool, another, task, 2)
        user.wait_for(task, "COMPLETED")
        assert user.logs(task) == f"begun {second}\ndone {second}\n"
        rows = [(row.number, row.state) for row in attempts_of(pool, task)]
        assert rows == [(1, "lost"), (2, "finished")]
    assert another.is_running
    assert "agent.replaced" not in another.log()
    (shown,) = user.node_list()
    assert shown.status == "ONLINE"
