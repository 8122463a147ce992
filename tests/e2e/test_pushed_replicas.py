"""Several runs of one task on workers without an agent, and on an agent's node beside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import package, script, unpacked
from tests.support.wire_worker import WireWorker

SETTINGS = {"PUSH_TO_NODES": "true", "PUSH_ALLOWED_NETWORKS": "127.0.0.0/8"}
# Of what a run is told, only what is the same for all of them is in its files.
SOURCE = script("import os\nopen('made.txt', 'w').write(os.environ['TASK_ID'])\nprint('ran')")
LIE = package({"main.py": "", "made.txt": "something else"})


@pytest.fixture
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1, settings=SETTINGS)


@pytest.fixture
def workers(pool: TestPool) -> Iterator[list[WireWorker]]:
    """Of three owners."""
    made = []
    for _ in range(3):
        owner = pool.register_user()
        worker = WireWorker(pool.address, owner.username, owner.password).serve()
        made.append(worker)
        worker.register()
        worker.handlers["ExecuteTask"] = worker.accept_and_work
    yield made
    for worker in made:
        worker.close()


def test_workers_and_an_agent_agree_and_a_worker_that_lies_is_outvoted(
    pool: TestPool, workers: list[WireWorker]
) -> None:
    liar = workers[0]
    liar.handlers["ExecuteTask"] = lambda *_: {"success": True, "result": LIE}
    user = pool.register_user()
    task = user.submit(SOURCE, replicas=4, max_minutes=5)
    detail = user.wait_for(task, "COMPLETED").detail
    verdicts = {it.node_id: it.verdict for it in detail.replica_records}
    assert verdicts.pop(liar.node_id) == "differs"
    assert set(verdicts) == {*(worker.node_id for worker in workers[1:]), pool.agents[0].node_id}
    assert set(verdicts.values()) == {"agreed"}
    assert unpacked(user.result(task))["made.txt"] == task.encode()
    assert "ran" in user.logs(task)
    # A worker knows the task by its own id, and nothing of its runs.
    assert {asked.task_id for worker in workers for asked in worker.asked["ExecuteTask"]} == {task}
