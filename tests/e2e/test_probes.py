"""Probes on a whole pool: an honest agent answers, and a node that claims more than it shows is corrected."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from nodepool.domain.trust import benchmark_probe
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import probes as probes_table
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import result_of_run

# Every 72 s, and every three seconds after one that was slow.
HOURS = "0.02"
CLAIMED = 40


def verdicts(pool: TestPool, node_id: str) -> list[str]:
    query = select(probes_table.c.verdict).where(probes_table.c.node_id == node_id)
    database = Database(pool.database_url)
    try:
        return [str(row.verdict) for row in database.read(lambda c: c.execute(query).all())]
    finally:
        database.close()


def credit(account: Account) -> pb.GetCreditResponse:
    request = pb.GetCreditRequest()
    return account.stubs.users.GetCredit(request, metadata=account.metadata, timeout=CALL_SECONDS)


class SlowNode(RogueNode):
    """Answers probes rightly, and long after a node of the claimed score would have."""

    def probe(self) -> str:
        """The attempt of a probe that is assigned to it; empty while there is none."""
        self.report()
        names = [str(name) for name in self.pool.valkey.admin.hkeys(f"node:{self.node_id}:assigned")]
        return next(iter(names), "")  # nobody sends this pool tasks

    def answer_late(self, folder: Path) -> None:
        self.pool.wait(self.probe, "the node is probed")
        attempt_id = self.probe()
        request = pb.ClaimAttemptRequest(node_id=self.node_id, attempt_id=attempt_id)
        stub, metadata = self.account.stubs.nodes, self.account.metadata
        answers = list(stub.ClaimAttempt(request, metadata=metadata, timeout=CALL_SECONDS))
        claimed_at = time.monotonic()
        result = result_of_run(b"".join(answer.package_chunk for answer in answers), folder)
        late = benchmark_probe.SECONDS * benchmark_probe.SLOW_FACTOR + benchmark_probe.OVERHEAD_SECONDS + 0.5
        self.pool.wait(lambda: time.monotonic() - claimed_at > late, "the answer is late")
        digest = hashlib.sha256(result).hexdigest()
        end = self.end(attempt_id, result_bytes=len(result), result_sha256=digest)
        assert self.finish(end, result).success


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings={**SETTINGS, "PROBE_HOURS": HOURS})


def test_a_node_that_claims_far_more_than_it_shows_is_corrected_and_pays_for_it(
    pool: TestPool, tmp_path: Path
) -> None:
    owner = pool.register_user()
    node = SlowNode(pool, owner).join(cpu_score=CLAIMED, cpu_cores=2)
    assert isinstance(node, SlowNode)
    before = node.info().capacity_cpu_score
    for times in range(benchmark_probe.SLOW_TIMES):
        node.answer_late(tmp_path / f"probe{times}")
        count = times + 1
        pool.wait(
            lambda count=count: verdicts(pool, node.node_id)[:count] == ["slow"] * count,  # type: ignore[misc]
            "it is found slow",
        )
    pool.wait(lambda: node.info().capacity_cpu_score < before / 3, "it is believed less")
    (change,) = credit(owner).changes
    assert (change.delta, change.node_id) == (-15, node.node_id)
    assert f"claims cpu_score {CLAIMED}" in change.reason
    # What it says of itself is shown as it says it.
    assert node.info().cpu_score == CLAIMED


def test_an_agent_answers_and_nobody_sees_it(pool: TestPool) -> None:
    agent = pool.add_agent()
    # How fast it is beside its claim depends on what else this machine does.
    pool.wait(lambda: {"right", "slow"} & set(verdicts(pool, agent.node_id)), "its answer holds")
    assert "wrong" not in verdicts(pool, agent.node_id)
    listed = agent.owner.stubs.tasks.GetAllTasks(
        pb.GetAllTasksRequest(token=agent.owner.token), metadata=agent.owner.metadata, timeout=CALL_SECONDS
    )
    assert list(listed.tasks) == []
    agent.stop()
