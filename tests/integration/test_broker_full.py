"""A broker whose memory is short: output gives way, what the pool lives from does not. On both servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis

from nodepool.domain.errors import BrokerFullError, UnavailableError
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fair_share import Decay
from nodepool.domain.trust.tiers import Tier
from nodepool.messaging.names import partition_queue
from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.redis import agent_instances, keys, output_scripts
from nodepool.stores.redis.last_heard import LastHeard
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.memory_guard import MemoryGuard
from nodepool.stores.redis.node_registry import MAX_REPORT_BYTES, NodeRegistry, RegistryAnswer, Reservation
from nodepool.stores.redis.output import OutputStore
from nodepool.stores.redis.sweep_lock import LockHolder, SweepLock
from nodepool.stores.redis.usage import UsageStore
from tests.support.valkey import TestValkey, redis_server

SERVER_BYTES = 16 << 20
WINDOW_BYTES = 1 << 20
CLAIM = Claim(cpu_score=100, memory_mb=64, gpu_score=0, gpu_memory_gb=0)
CAPACITY = Claim(cpu_score=1000, memory_mb=4096, gpu_score=0, gpu_memory_gb=0, tasks=8)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestValkey]:
    binary = redis_server() if request.param == "redis" else ""
    started = TestValkey(tmp_path_factory.mktemp("broker"), max_memory_bytes=SERVER_BYTES, binary=binary)
    started.start()
    yield started
    started.close()


@pytest.fixture
def client(server: TestValkey) -> Iterator[redis.Redis]:
    server.admin.flushall()
    server.admin.config_set("maxmemory", SERVER_BYTES)
    with redis.Redis.from_url(server.url, socket_timeout=5) as opened:
        yield opened


def node(node_id: str) -> RegisteredNode:
    return RegisteredNode(node_id, Tier.HIGH, "asia", "", "agent", False, CAPACITY)  # type: ignore[arg-type]


def fill(client: redis.Redis) -> None:
    """From now on nothing that needs memory is taken."""
    client.config_set("maxmemory", 1 << 18)  # less than an empty server takes
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("one", b"more", ex=600)


def test_what_the_pool_lives_from_is_taken_when_the_server_is_full(client: redis.Redis) -> None:
    registry, liveness = NodeRegistry(client), Liveness(client)
    registry.put_node(node("n1"))
    assert registry.reserve_all([Reservation("n1", "a:1", CLAIM)], at=1.0) == [RegistryAnswer.OK]
    fill(client)
    registry.put_nodes([node("n1"), node("n2")])
    wanted = [Reservation("n1", "a:2", CLAIM), Reservation("n2", "a:3", CLAIM)]
    assert registry.reserve_all(wanted, at=2.0) == [RegistryAnswer.OK] * 2
    assert registry.resize_all([("n1", {"a:2": CLAIM})]) == [RegistryAnswer.OK]
    registry.mark_stop("n1", "a:2")
    assert registry.release("n1", "a:1")
    registry.rebuild("n2", {"a:3": (CLAIM, 2.0, False)}, now=100.0)
    registry.write_report("n2", at=3.0)
    assert SweepLock(client).take(3.0) is LockHolder.OURS_NOW
    liveness.set_pace(3.0)
    liveness.say_gateway_serves()
    assert liveness.gateway_serves()
    agent_instances.take_over(client, "n1", "first")
    agent_instances.check(client, "n1", "first")
    LastHeard(client).heard(["a:3"])
    UsageStore(client, Decay(60.0)).add({1: 2.0}, now=1.0)
    assert {name: set(found) for name, found in registry.allocations(["n1", "n2"]).items()} == {
        "n1": {"a:2"},
        "n2": {"a:3"},
    }


def test_hints_to_nodes_are_taken_when_the_server_is_full(server: TestValkey, client: redis.Redis) -> None:
    publisher = Publisher(make_app(Settings(redis_url=server.url)))
    try:
        fill(client)
        assert publisher.execute("n1", "a:1")
        publisher.execute_all([("n1", "a:2", "a")])
        assert publisher.stop("n1", "a:1")
        assert publisher.push("n2", "a:3")
        assert client.llen("node.n1") == 3
        assert not publisher.place("t", "low", "any")  # the sweep tells of it again
    finally:
        publisher.close()


def test_the_error_says_that_it_is_full(client: redis.Redis) -> None:
    fill(client)
    with pytest.raises(BrokerFullError, match="is full"):
        OutputStore(client, WINDOW_BYTES).append("t:1", 0, b"x" * 1000)


def test_the_error_says_that_a_server_that_is_there_takes_no_writes(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(UnavailableError, match="takes no writes just now"):
            NodeRegistry(client).put_node(node("n1"))
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_all_windows_together_stay_within_their_room(client: redis.Redis) -> None:
    room = 64 << 10
    outputs = OutputStore(client, WINDOW_BYTES, room)
    for number in range(40):
        said = bytes([65 + number % 26]) * 5000
        assert outputs.append(f"t{number}:1", 0, said) == 5000
        assert outputs.append(f"t{number}:1", 5000, b"newest") == 5006
        assert outputs.total_bytes() <= room
        window = outputs.window(f"t{number}:1")
        assert window.end == 5006  # nobody is asked for it again
        assert window.data.endswith(b"newest")
    windows = [outputs.window(f"t{number}:1") for number in range(40)]
    assert all(window.base + len(window.data) == 5006 for window in windows)
    assert all(window.data for window in windows[-10:])
    assert (
        sum(len(window.data) + output_scripts.OVERHEAD_BYTES for window in windows) == outputs.total_bytes()
    )


def test_who_is_silent_and_has_much_makes_room_for_who_begins(client: redis.Redis) -> None:
    room = 100_000
    outputs = OutputStore(client, WINDOW_BYTES, room)
    outputs.append("loud:1", 0, b"x" * 99_000)
    outputs.append("new:1", 0, b"y" * 40_000)
    assert outputs.total_bytes() <= room
    assert outputs.window("new:1").data[-10_000:] == b"y" * 10_000
    assert outputs.window("loud:1").end == 99_000
    assert 10_000 < len(outputs.window("loud:1").data) < 60_000


def test_a_window_ends_soon_after_its_attempt(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = OutputStore(client, WINDOW_BYTES)
    outputs.append("t:1", 0, b"all of it")
    LastHeard(client).works("t:1")
    assert not outputs.end("silent:1")
    outputs.end("t:1")
    assert outputs.window("t:1").data == b"all of it"  # who watches reads it
    assert 0 < client.ttl(keys.output("t:1")) < 60  # also where nobody is there to forget it
    assert not client.exists(keys.work("t:1"))
    assert outputs.append("t:1", 9, b" and more") == 18
    assert outputs.window("t:1").data == b"all of it"
    assert outputs.running() == set()
    outputs.forget_due()
    assert outputs.window("t:1").data == b"all of it"
    monkeypatch.setattr(keys, "ENDED_OUTPUT_SECONDS", 0)
    outputs.append("u:1", 0, b"over")
    outputs.end("u:1")
    outputs.forget_due()
    assert outputs.window("u:1").data == b""
    outputs.forget("t:1")
    assert client.keys("outputs:*") == []


def test_windows_of_ended_attempts_go_first(client: redis.Redis) -> None:
    outputs = OutputStore(client, WINDOW_BYTES, 50_000)
    outputs.append("ended:1", 0, b"x" * 30_000)
    outputs.append("live:1", 0, b"y" * 15_000)
    outputs.end("ended:1")
    outputs.append("live:1", 15_000, b"z" * 20_000)
    assert outputs.window("live:1").data == b"y" * 15_000 + b"z" * 20_000
    assert outputs.window("ended:1").data == b""


def test_windows_of_an_earlier_version_are_counted_once(client: redis.Redis) -> None:
    client.hset(keys.output("old:1"), mapping={"base": 0, "data": b"x" * 1000})
    outputs = OutputStore(client, WINDOW_BYTES)
    outputs.count_uncounted()
    outputs.count_uncounted()
    assert outputs.running() == {"old:1"}
    assert outputs.total_bytes() == 1000 + output_scripts.OVERHEAD_BYTES


def test_what_a_worker_without_an_agent_said_while_nothing_was_taken_is_missed_where_it_was(
    client: redis.Redis,
) -> None:
    outputs = OutputStore(client, WINDOW_BYTES)
    fill(client)
    outputs.append_at_end("t:1", b"12345")
    outputs.append_at_end("t:1", b"67")
    client.config_set("maxmemory", SERVER_BYTES)
    outputs.append_at_end("t:1", b"after\n")
    said = b"[7 bytes of output were dropped here: the broker took none]\nafter\n"
    assert outputs.window("t:1").data == said


def test_a_server_that_output_has_filled_frees_itself(client: redis.Redis) -> None:
    outputs = OutputStore(client, WINDOW_BYTES)  # nobody has said how much there may be
    with suppress(BrokerFullError):
        for number in range(100):
            outputs.append(f"t{number}:1", 0, b"x" * 900_000)
    assert client.info("memory")["used_memory"] > SERVER_BYTES * 0.9
    use = MemoryGuard(client, outputs, 128 << 20).look()
    assert not use.is_nearly_full
    assert outputs.total_bytes() <= SERVER_BYTES // 4
    client.set("a report", "is taken", ex=60)


def test_large_reports_and_too_many_hints_give_way(client: redis.Redis) -> None:
    registry = NodeRegistry(client)
    names = [f"n{number}" for number in range(16)]
    registry.put_nodes([node(name) for name in names])
    honest = json.dumps({"v": 1, "cpu_percent": 1, "memory_percent": 2, "running": []})
    client.set(keys.report("n0"), honest, ex=60)
    with suppress(redis.exceptions.OutOfMemoryError):
        for name in names[1:]:
            client.set(keys.report(name), b"x" * (900 << 10), ex=60)
    queue = partition_queue("low", "any")
    with suppress(redis.exceptions.OutOfMemoryError):
        for _ in range(50):
            client.lpush(queue, *(b"hint" for _ in range(400)))
    outputs = OutputStore(client, WINDOW_BYTES)
    assert not MemoryGuard(client, outputs, 128 << 20).look().is_nearly_full
    assert client.llen(queue) <= 10_000
    reports = registry.reports(names)
    assert client.strlen(keys.report("n1")) <= MAX_REPORT_BYTES
    assert reports["n0"] is not None
    assert reports["n0"].cpu_percent == 1
    assert reports["n1"] is not None  # it was heard of
    assert 0 <= reports["n1"].age_seconds < 60


def test_a_node_that_leaves_leaves_no_queue(client: redis.Redis) -> None:
    registry = NodeRegistry(client)
    registry.put_node(node("n1"))
    client.lpush("node.n1", "hint")
    registry.remove_node("n1")
    assert client.keys("*n1*") == []
