"""Messages are hints: however often they come, a task runs once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from tests.support.accounts import Account
from tests.support.faults import WAITS, attempts_of, await_begun, let_go
from tests.support.pool import TestPool
from tests.support.tasks import script, unpacked

TIMES = 30


@pytest.fixture
def publisher(pool: TestPool) -> Iterator[Publisher]:
    app = make_app(Settings(redis_url=pool.valkey.url), "doubler")
    yield Publisher(app)
    app.close()


def repeat(pool: TestPool, user: Account, publisher: Publisher, task: str) -> None:
    """Every hint of the task, many times over, and the wait until all of them were taken."""
    tier, region = user.detail(task).queue.split(".")
    node = user.detail(task).assigned_node
    for _ in range(TIMES):
        assert publisher.place(task, tier, region)
        assert publisher.execute(node, pool.attempt(task))
    queues = (f"{tier}.{region}", f"node.{node}")
    pool.wait(lambda: not pool.valkey.admin.exists(*queues), "all hints are taken")
    # The queue is taken in order: who comes after the hints comes after what they did.
    after = user.submit(script("print('after')"))
    user.wait_for(after, "COMPLETED")


def test_hints_told_many_times_make_one_run(pool: TestPool, publisher: Publisher) -> None:
    user = pool.register_user()
    task = user.submit(script(WAITS))
    # The pool tells a node of an attempt only once it is in SQL; before that its id names nothing.
    pool.wait(lambda: user.detail(task).state != "QUEUED", "the task has a node")
    (agent,) = (agent for agent in pool.agents if agent.node_id == user.detail(task).assigned_node)
    repeat(pool, user, publisher, task)
    name = await_begun(pool, user, task)
    repeat(pool, user, publisher, task)
    let_go(pool, agent, task)
    user.wait_for(task, "COMPLETED")
    repeat(pool, user, publisher, task)

    # A new life of the agent remembers nothing; the pool does.
    agent.stop()
    agent.start()
    pool.wait(lambda: agent.log().count("the node is online") == 2, "the agent is back")
    repeat(pool, user, publisher, task)

    assert [(row.number, row.state, row.exit_code) for row in attempts_of(pool, task)] == [(1, "finished", 0)]
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    files = unpacked(user.result(task))
    assert files["who.txt"].decode() == name
    assert files["task_logs.txt"].decode() == f"begun {name}\ndone {name}\n"


def test_hints_that_name_nothing_are_forgotten(pool: TestPool, publisher: Publisher) -> None:
    user, node = pool.register_user(), pool.agents[0].node_id
    assert publisher.place("task_that_never_was", "normal", "any")
    assert publisher.execute(node, "an-attempt-that-never-was:1")
    assert publisher.stop(node, "an-attempt-that-never-was:1")
    pool.wait(lambda: not pool.valkey.admin.exists("normal.any", f"node.{node}"), "all hints are taken")
    user.wait_for(user.submit(script("print('after')")), "COMPLETED")


def test_a_hint_to_another_nodes_queue_starts_nothing_there(pool: TestPool, publisher: Publisher) -> None:
    user, other = pool.register_user(), pool.add_agent()
    task = user.submit(script(WAITS))
    name, runs_on = await_begun(pool, user, task), user.detail(task).assigned_node
    (wrong,) = (agent for agent in pool.agents if agent.node_id != runs_on)
    (right,) = (agent for agent in pool.agents if agent.node_id == runs_on)
    for _ in range(TIMES):
        publisher.execute(wrong.node_id, pool.attempt(task))
        publisher.stop(wrong.node_id, pool.attempt(task))
    pool.wait(lambda: not pool.valkey.admin.exists(f"node.{wrong.node_id}"), "all hints are taken")
    let_go(pool, right, task)
    user.wait_for(task, "COMPLETED")
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    assert other in (right, wrong)
