"""Reports that lie, written by a node with its own broker user: signs of life and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import grpc
import pytest
import redis

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.faults import WAITS, await_begun, let_go
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import REPORT_TTL_SECONDS, RogueNode
from tests.support.tasks import script

TEN_MB = 10 << 20


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1)


@pytest.fixture(scope="module")
def liar(pool: TestPool) -> RogueNode:
    return RogueNode(pool, pool.register_user()).join(location="Oceania")


@pytest.fixture(scope="module")
def broker(liar: RogueNode) -> Iterator[redis.Redis]:
    """The liar's own connection, with its own user."""
    client = redis.Redis.from_url(liar.broker_url, protocol=2, socket_timeout=60)
    yield client
    client.close()


def report(**fields: object) -> str:
    good = {"v": 1, "at": time.time(), "cpu_percent": 1.0, "memory_percent": 1.0, "running": []}
    return json.dumps({**good, **fields})


def of_run(attempt_id: str, **fields: object) -> str:
    return report(running=[{"attempt_id": attempt_id, **fields}])


def shown(liar: RogueNode) -> pb.WorkerNodeInfo:
    (info,) = (info for info in liar.account.node_list() if info.node_id == liar.node_id)
    return info


LIES = {
    "more memory than it registered": of_run("{own}", memory_bytes=1 << 50, cpu_score=1),
    "endless use": of_run("{own}", memory_bytes=1e308, cpu_score=1e308),
    "negative use": of_run("{own}", memory_bytes=-(1 << 40), cpu_percent=-500.0, cpu_score=-1000),
    "more than all of the processor": report(cpu_percent=1e9, memory_percent=1e9),
    "less than nothing": report(cpu_percent=-5, memory_percent=-1e300),
    "from the future": report(at=time.time() + 1e9),
    "from long ago": report(at=-1e12),
    "of no time at all": report(at="yesterday"),
    "somebody else's run": of_run("{other}", memory_bytes=1, cpu_score=1e6),
    "twenty thousand runs": report(running=[{"attempt_id": f"t{number}:1"} for number in range(20_000)]),
    "no JSON": "{" * 10_000,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lie_changes_nothing_but_that_the_node_is_alive(
    pool: TestPool, liar: RogueNode, broker: redis.Redis, lie: str
) -> None:
    user = pool.register_user()
    task = user.submit(script(WAITS), location="Asia")
    name = await_begun(pool, user, task)
    reserved = pool.valkey.admin.hgetall(f"node:{liar.node_id}:reserved")
    text = lie.replace("{own}", "nobodys:1").replace("{other}", pool.attempt(task))
    broker.set(liar.report_key, text, ex=REPORT_TTL_SECONDS)
    info = shown(liar)
    assert info.status == "ONLINE"
    assert abs(info.last_heartbeat - time.time()) < REPORT_TTL_SECONDS
    for percent in (info.cpu_percent, info.memory_percent):
        assert 0 <= percent <= 100
    for used in (info.used_cpu_score, info.used_memory_mb):
        assert used >= 0
    # The sweep has passed over it, and everybody else's work goes on.
    second = user.submit(script("print('second')"), location="Asia")
    user.wait_for(second, "COMPLETED")
    (agent,) = pool.agents
    assert user.detail(task).assigned_node == agent.node_id
    let_go(pool, agent, task)
    user.wait_for(task, "COMPLETED")
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    assert pool.valkey.admin.hgetall(f"node:{liar.node_id}:reserved") == reserved


def test_ten_megabytes_are_no_report(pool: TestPool, liar: RogueNode, broker: redis.Redis) -> None:
    broker.set(liar.report_key, report(), ex=REPORT_TTL_SECONDS)
    before = pool.valkey.admin.strlen(liar.report_key)
    with pytest.raises(redis.RedisError):
        broker.set(liar.report_key, report(running="x" * TEN_MB), ex=REPORT_TTL_SECONDS)
    assert pool.valkey.admin.strlen(liar.report_key) == before
    # A server without that limit has it; the pool reads no more of it than of any other.
    pool.valkey.admin.config_set("proto-max-bulk-len", 64 << 20)
    pool.valkey.admin.config_set("client-query-buffer-limit", 64 << 20)
    try:
        broker.set(liar.report_key, report(running="x" * TEN_MB), ex=REPORT_TTL_SECONDS)
        info = shown(liar)
        assert (info.status, info.cpu_percent) == ("ONLINE", 0.0)
        user = pool.register_user()
        user.wait_for(user.submit(script("print('hello')"), location="Asia"), "COMPLETED")
    finally:
        pool.valkey.admin.config_set("proto-max-bulk-len", 1 << 20)
        pool.valkey.admin.config_set("client-query-buffer-limit", 8 << 20)
        broker.set(liar.report_key, report(), ex=REPORT_TTL_SECONDS)


def test_a_report_for_another_node_is_refused_by_both_ways(
    pool: TestPool, liar: RogueNode, broker: redis.Redis
) -> None:
    (agent,) = pool.agents
    with pytest.raises(redis.exceptions.NoPermissionError):
        broker.set(f"node:{agent.node_id}:report", report(), ex=REPORT_TTL_SECONDS)
    request = pb.ReportStatusRequest(node_id=agent.node_id, status_message="fine")
    stub, metadata = liar.account.stubs.nodes, liar.account.metadata
    code, _ = refused(lambda: stub.ReportStatus(request, metadata=metadata))
    assert code is grpc.StatusCode.NOT_FOUND
