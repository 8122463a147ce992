"""Docker counts when a probe has run in it: an engine brings normal trust, and a word brings none."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from nodepool.domain.trust import benchmark_probe
from nodepool.stores.sql.tables import nodes, probes as probes_table, tasks
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import new_task_id, result_of_run, script

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory, test_image: str) -> TestPool:
    return pool_factory(agents=0, image=test_image, settings={**SETTINGS, "PROBE_HOURS": "24"})


def tier(pool: TestPool, node_id: str) -> str:
    return next(node.trust_tier for node in pool.owner.node_list() if node.node_id == node_id)


def verdict(pool: TestPool, node_id: str) -> str:
    """Of its newest probe."""
    query = select(probes_table.c.verdict).where(probes_table.c.node_id == node_id)
    found = pool.rows(query.order_by(probes_table.c.created_at.desc()).limit(1))
    return "".join(row.verdict or "" for row in found)


def test_an_agent_with_an_engine_is_of_normal_trust_after_its_first_probe(pool: TestPool) -> None:
    agent = pool.add_agent(runner="docker")
    pool.wait(lambda: verdict(pool, agent.node_id), "it was probed")
    # How fast it is depends on what else this machine does.
    assert verdict(pool, agent.node_id) in {
        benchmark_probe.ProbeVerdict.RIGHT,
        benchmark_probe.ProbeVerdict.SLOW,
    }
    pool.wait(lambda: tier(pool, agent.node_id) == "normal", "its Docker counts")
    # And so a task that asks for that trust runs there.
    task_id = pool.owner.submit(script("print('trusted')"), new_task_id(), min_trust="normal")
    pool.owner.wait_for(task_id, "COMPLETED")
    agent.stop()


def test_a_node_that_only_says_that_it_has_docker_stays_low_though_its_answer_is_right(
    pool: TestPool, tmp_path: Path
) -> None:
    liar = RogueNode(pool, pool.register_user()).join(docker_status="running", cpu_score=40, cpu_cores=1)
    assert tier(pool, liar.node_id) == "low"

    def given() -> str:
        liar.report()
        return next((str(name) for name in pool.valkey.admin.hkeys(f"node:{liar.node_id}:assigned")), "")

    pool.wait(given, "it is probed")
    attempt_id = given()
    result = result_of_run(liar.package_of(attempt_id), tmp_path / "probe")
    assert liar.finish_with(attempt_id, result).success
    pool.wait(lambda: verdict(pool, liar.node_id), "it was judged")
    assert verdict(pool, liar.node_id) in {
        benchmark_probe.ProbeVerdict.RIGHT,
        benchmark_probe.ProbeVerdict.SLOW,
    }
    assert tier(pool, liar.node_id) == "low"
    # Nobody is blamed: a broken engine looks the same.
    (row,) = pool.rows(select(nodes).where(nodes.c.id == liar.node_id))
    assert not row.engine_shown
    assert pool.rows(select(tasks.c.id).where(tasks.c.id.startswith("probe"))) == []
