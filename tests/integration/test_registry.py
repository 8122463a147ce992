"""Reservations and reports on a real Valkey: never over capacity, never confused by a node's lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import pytest
import redis

from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.resources import MAX_AMOUNT, Claim
from nodepool.domain.scheduling.reclaim import MeasuredUse
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.redis import keys
from nodepool.stores.redis.node_registry import (
    MAX_REPORT_BYTES,
    PENDING_SECONDS,
    NodeRegistry,
    Reservation,
)
from tests.support.reservations import reserve, resize
from tests.support.stores import CLAIM, assigned_ids
from tests.support.valkey import TestValkey

NODE = "owner/n1"
NOW = 1_000_000.0
CAPACITY = Claim(cpu_score=1000, memory_mb=5 * 512, gpu_score=0, gpu_memory_gb=0, tasks=8)


def _node(*, draining: bool = False) -> RegisteredNode:
    return RegisteredNode(NODE, Tier.HIGH, "asia", "", "agent", draining, CAPACITY)


@pytest.fixture
def client(valkey: TestValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as opened:
        yield opened


@pytest.fixture
def registry(client: redis.Redis) -> NodeRegistry:
    registry = NodeRegistry(client)
    registry.put_node(_node())
    return registry


def _reserved(registry: NodeRegistry) -> Claim:
    (view,) = registry.snapshot(15)
    return view.reserved


def _sum(count: int) -> Claim:
    return Claim(count * CLAIM.cpu_score, count * CLAIM.memory_mb, 0, 0, tasks=count)


def test_a_node_is_seen_as_it_was_put(registry: NodeRegistry) -> None:
    (view,) = registry.snapshot(15)
    assert (view.node_id, view.tier, view.region, view.capacity) == (NODE, Tier.HIGH, "asia", CAPACITY)
    assert not view.online
    registry.write_report(NODE, at=NOW)
    assert registry.snapshot(15)[0].online


def test_many_threads_never_reserve_more_than_there_is(registry: NodeRegistry) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda n: reserve(registry, NODE, f"t{n}:1", CLAIM, at=NOW), range(64)))
    assert answers.count("ok") == 5
    assert set(answers) == {"ok", "full memory_mb"}
    assert _reserved(registry) == _sum(5)


def test_the_same_attempt_is_reserved_once_however_often_it_is_asked(registry: NodeRegistry) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: reserve(registry, NODE, "t:1", CLAIM, at=NOW), range(16)))
    assert sorted(answers) == ["again"] * 15 + ["ok"]
    assert _reserved(registry) == _sum(1)


def test_threads_that_reserve_and_release_leave_nothing(registry: NodeRegistry) -> None:
    def come_and_go(number: int) -> None:
        for turn in range(20):
            attempt = f"t{number}:{turn}"
            if reserve(registry, NODE, attempt, CLAIM, at=NOW) == "ok":
                assert registry.release(NODE, attempt)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(come_and_go, range(8)))
    assert _reserved(registry) == _sum(0)
    assert assigned_ids(registry, NODE) == set()


@pytest.mark.parametrize("also_released", [0, 2])
def test_sums_that_are_lost_are_made_again_of_what_is_listed_before_anything_is_decided_by_them(
    registry: NodeRegistry, client: redis.Redis, also_released: int
) -> None:
    for number in range(5):
        reserve(registry, NODE, f"t{number}:1", CLAIM, at=NOW)
    client.delete(keys.reserved(NODE))
    for number in range(also_released):
        registry.release(NODE, f"t{number}:1")
    answers = [reserve(registry, NODE, f"new{number}:1", CLAIM, at=NOW) for number in range(5)]
    assert answers.count("ok") == also_released
    assert _reserved(registry) == _sum(5)
    client.delete(keys.reserved(NODE))
    less = replace(CLAIM, memory_mb=CLAIM.memory_mb - 12)
    assert resize(registry, NODE, {"t4:1": less}) == "ok"
    assert _reserved(registry) == replace(_sum(5), memory_mb=_sum(5).memory_mb - 12)


def test_a_release_told_twice_gives_back_once(registry: NodeRegistry) -> None:
    reserve(registry, NODE, "t:1", CLAIM, at=NOW)
    reserve(registry, NODE, "t:2", CLAIM, at=NOW)
    assert [registry.release(NODE, "t:1") for _ in range(2)] == [True, False]
    assert _reserved(registry) == _sum(1)


def test_a_node_of_its_owner_alone_takes_nobody_elses_task_whatever_a_dispatcher_thinks(
    registry: NodeRegistry, valkey: TestValkey
) -> None:
    registry.put_node(replace(_node(), owner_id=7, owner_only=True))
    assert reserve(registry, NODE, "t:1", CLAIM, at=NOW, owner_id=8) == "owner only"
    assert reserve(registry, NODE, "t:2", CLAIM, at=NOW, owner_id=7) == "ok"
    (view,) = registry.snapshot(15)
    assert (view.owner_only, view.reserved) == (True, _sum(1))
    # As a version wrote it that knew no such nodes.
    valkey.admin.hdel(f"node:{NODE}:facts", "owner_only")
    assert reserve(registry, NODE, "t:3", CLAIM, at=NOW, owner_id=8) == "owner only"


def test_nothing_is_reserved_on_a_node_that_drains_or_is_gone(registry: NodeRegistry) -> None:
    registry.put_node(_node(draining=True))
    assert reserve(registry, NODE, "t:1", CLAIM, at=NOW) == "draining"
    registry.remove_node(NODE)
    assert reserve(registry, NODE, "t:1", CLAIM, at=NOW) == "gone"
    assert registry.snapshot(15) == []


def test_after_a_flush_a_rebuild_brings_reservations_and_their_times_back(
    registry: NodeRegistry, client: redis.Redis
) -> None:
    live = {f"t{n}:1": (CLAIM, NOW + n, n == 1) for n in range(3)}
    client.flushall()
    registry.put_node(_node())
    registry.rebuild(NODE, live, now=NOW)
    assert _reserved(registry) == _sum(3)
    listed = cast("dict[bytes, bytes]", client.hgetall(keys.assigned(NODE)))
    entries = {name.decode(): json.loads(text) for name, text in listed.items()}
    assert {name: (entry["at"], entry["stop"]) for name, entry in entries.items()} == {
        name: (at, stop) for name, (_, at, stop) in live.items()
    }


def test_a_rebuild_keeps_the_time_of_what_is_there(registry: NodeRegistry, client: redis.Redis) -> None:
    reserve(registry, NODE, "t:1", CLAIM, at=NOW)
    registry.rebuild(NODE, {"t:1": (CLAIM, NOW + 50, False)}, now=NOW + 60)
    assert json.loads(client.hget(keys.assigned(NODE), "t:1") or b"")["at"] == NOW
    assert _reserved(registry) == _sum(1)


def test_a_rebuild_counts_what_is_about_to_be_committed_and_drops_what_was_left(
    registry: NodeRegistry,
) -> None:
    reserve(registry, NODE, "left:1", CLAIM, at=NOW)
    reserve(registry, NODE, "fresh:1", CLAIM, at=NOW + PENDING_SECONDS)
    registry.rebuild(NODE, {"live:1": (CLAIM, NOW, False)}, now=NOW + PENDING_SECONDS + 1)
    assert assigned_ids(registry, NODE) == {"fresh:1", "live:1"}
    assert _reserved(registry) == _sum(2)
    registry.release(NODE, "fresh:1")
    registry.release(NODE, "live:1")
    assert _reserved(registry) == _sum(0)


def test_many_reservations_are_one_round_trip_also_for_a_server_that_forgot_the_script(
    registry: NodeRegistry, client: redis.Redis, valkey: TestValkey
) -> None:
    def reserved(number: int) -> list[str]:
        wanted = [Reservation(NODE, f"t{number}{n}:1", CLAIM) for n in range(2)]
        return [str(answer) for answer in registry.reserve_all(wanted, at=NOW)]

    assert reserved(1) == ["ok", "ok"]
    client.script_flush()
    assert reserved(2) == ["ok", "ok"]
    registry.release_all([(NODE, f"t{number}{n}:1") for number in (1, 2) for n in range(2)])
    valkey.admin.config_resetstat()
    assert reserved(3) == ["ok", "ok"]
    assert {name for name in valkey.admin.info("commandstats") if "script" in name} == set()
    assert _reserved(registry) == _sum(2)


def test_a_stop_is_marked_where_the_attempt_still_is(registry: NodeRegistry, client: redis.Redis) -> None:
    reserve(registry, NODE, "t:1", CLAIM, at=NOW + 0.123)
    for attempt in ("t:1", "t:1", "other:1"):
        registry.mark_stop(NODE, attempt)
    (text,) = client.hgetall(keys.assigned(NODE)).values()
    assert json.loads(text) == {
        "at": NOW + 0.123,
        "stop": True,
        "claim": {"cpu_score": 100, "memory_mb": 512, "gpu_score": 0, "gpu_memory_gb": 0, "tasks": 1},
    }


def test_a_true_report_is_read(registry: NodeRegistry, client: redis.Redis) -> None:
    body = {"v": 1, "cpu_percent": 12.5, "memory_percent": 50, "running": [{"attempt_id": "t:1"}]}
    client.set(keys.report(NODE), json.dumps(body), ex=keys.REPORT_TTL_SECONDS)
    report = registry.reports([NODE])[NODE]
    assert report is not None
    assert (report.cpu_percent, report.memory_percent, report.running) == (12.5, 50.0, ("t:1",))
    assert 0 <= report.age_seconds < 30


LIES = {
    "empty object": b"{}",
    "not JSON": b"{nope",
    "not text": b"\xff\xfe\x00",
    "a number": b"7",
    "null": b"null",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep where it matters": b'{"cpu_percent": 1, "memory_percent": 1, "running": [{"attempt_id": [[1]]}]}',
    "deep with words": b'{"a": "]]", "b": ' + b'[{"x": ' * 5000 + b"1" + b"}]" * 5000 + b"}",
    "too long": b'{"cpu_percent": 1, "memory_percent": 1, "running": []' + b" " * MAX_REPORT_BYTES + b"}",
    "infinite": b'{"cpu_percent": Infinity, "memory_percent": -Infinity, "running": []}',
    "NaN": b'{"cpu_percent": NaN, "memory_percent": "nan", "running": []}',
    "beyond floats": b'{"cpu_percent": 1' + b"0" * 400 + b', "memory_percent": 0}',
    "beyond integers": b'{"cpu_percent": 1' + b"0" * 5000 + b', "memory_percent": 0}',
    "running is a number": b'{"cpu_percent": 1, "memory_percent": 1, "running": 7}',
    "running is text": b'{"cpu_percent": 1, "memory_percent": 1, "running": "abc"}',
    "running is an object": b'{"cpu_percent": 1, "memory_percent": 1, "running": {"a": 1}}',
    "running holds nulls": b'{"cpu_percent": 1, "memory_percent": 1, "running": [null]}',
    "percent is a list": b'{"cpu_percent": [], "memory_percent": 1, "running": []}',
    "percent is null": b'{"cpu_percent": null, "memory_percent": 1, "running": []}',
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_lying_report_is_a_sign_of_life_and_nothing_else(
    registry: NodeRegistry, client: redis.Redis, lie: bytes
) -> None:
    client.set(keys.report(NODE), lie, ex=keys.REPORT_TTL_SECONDS)
    report = registry.reports([NODE])[NODE]
    assert report is not None
    assert 0 <= report.cpu_percent <= 100
    assert 0 <= report.memory_percent <= 100
    assert report.running == ()
    assert registry.snapshot(15)[0].online


USES: dict[str, tuple[dict[str, object], MeasuredUse | None]] = {
    "measured": ({"memory_bytes": 3 << 20, "cpu_score": 12.5}, MeasuredUse(13, 3)),
    "a byte counts as a MiB": ({"memory_bytes": 1, "cpu_score": 0}, MeasuredUse(0, 1)),
    "more than any machine": (
        {"memory_bytes": 10**300, "cpu_score": 1e300},
        MeasuredUse(MAX_AMOUNT, MAX_AMOUNT),
    ),
    "not measured yet": ({"memory_bytes": 0, "cpu_score": 0}, None),
    "negative memory": ({"memory_bytes": -1, "cpu_score": 0}, None),
    "negative CPU": ({"memory_bytes": 1, "cpu_score": -0.1}, None),
    "NaN": ({"memory_bytes": float("nan"), "cpu_score": 1}, None),
    "endless": ({"memory_bytes": 1, "cpu_score": float("inf")}, None),
    "text": ({"memory_bytes": "1", "cpu_score": 1}, None),
    "lists": ({"memory_bytes": [1], "cpu_score": [1]}, None),
    "nothing said": ({}, None),
}


@pytest.mark.parametrize(("told", "use"), USES.values(), ids=USES.keys())
def test_what_a_run_is_said_to_use_is_a_use_or_nothing(
    registry: NodeRegistry, client: redis.Redis, told: dict[str, object], use: MeasuredUse | None
) -> None:
    running = [{"attempt_id": "t:1", **told}, {"attempt_id": "t:2", "memory_bytes": 1 << 20, "cpu_score": 1}]
    body = {"cpu_percent": 1, "memory_percent": 1, "running": running}
    client.set(keys.report(NODE), json.dumps(body), ex=keys.REPORT_TTL_SECONDS)
    report = registry.reports([NODE])[NODE]
    assert report is not None
    assert report.running == ("t:1", "t:2")
    assert report.uses == ({} if use is None else {"t:1": use}) | {"t:2": MeasuredUse(1, 1)}


def test_no_more_of_a_report_is_kept_than_a_node_can_run(registry: NodeRegistry, client: redis.Redis) -> None:
    running = [{"attempt_id": "x" * 400}] * 600
    body = {"cpu_percent": 1e300, "memory_percent": -5, "running": running}
    client.set(keys.report(NODE), json.dumps(body)[:MAX_REPORT_BYTES], ex=keys.REPORT_TTL_SECONDS)
    report = registry.reports([NODE])[NODE]
    assert report is not None
    assert len(report.running) <= 512
    assert all(len(attempt) <= 200 for attempt in report.running)


@pytest.mark.parametrize("seconds", [None, 3600])
def test_a_report_that_would_outlive_its_time_makes_no_node_online(
    registry: NodeRegistry, client: redis.Redis, seconds: int | None
) -> None:
    client.set(keys.report(NODE), "{}", ex=seconds)
    assert not registry.snapshot(15)[0].online


def _less(memory_mb: int, cpu_score: int = CLAIM.cpu_score) -> Claim:
    return replace(CLAIM, memory_mb=memory_mb, cpu_score=cpu_score)


def test_what_an_allocation_gives_up_is_room_for_others(registry: NodeRegistry) -> None:
    assert [reserve(registry, NODE, f"t{n}:1", CLAIM, at=NOW) for n in range(6)][-2:] == [
        "ok",
        "full memory_mb",
    ]
    assert resize(registry, NODE, {"t0:1": _less(100, 10), "t1:1": _less(400)}) == "ok"
    assert reserve(registry, NODE, "t5:1", CLAIM, at=NOW) == "ok"
    kept = registry.allocations([NODE])[NODE]
    assert (kept["t0:1"], kept["t1:1"], kept["t2:1"]) == (_less(100, 10), _less(400), CLAIM)
    assert _reserved(registry) == Claim(510, 100 + 400 + 4 * 512, 0, 0, tasks=6)


def test_an_allocation_grows_only_into_room_that_is_there(registry: NodeRegistry) -> None:
    for number in range(5):
        reserve(registry, NODE, f"t{number}:1", CLAIM, at=NOW)
    resize(registry, NODE, {"t0:1": _less(100)})
    reserve(registry, NODE, "small:1", _less(300), at=NOW)
    assert resize(registry, NODE, {"t0:1": CLAIM}) == "full memory_mb"
    assert registry.allocations([NODE])[NODE]["t0:1"] == _less(100)
    # All or none, and what one gives up counts for the others.
    assert resize(registry, NODE, {"t0:1": CLAIM, "t1:1": _less(212)}) == "ok"
    assert resize(registry, NODE, {"t1:1": _less(10), "gone:1": CLAIM}) == "gone"
    assert _reserved(registry).memory_mb == 5 * 512 - 300 + 300


def test_a_release_gives_back_what_is_allocated_now(registry: NodeRegistry) -> None:
    reserve(registry, NODE, "t:1", CLAIM, at=NOW)
    reserve(registry, NODE, "t:2", CLAIM, at=NOW)
    resize(registry, NODE, {"t:1": _less(100, 10)})
    assert registry.release(NODE, "t:1")
    assert _reserved(registry) == _sum(1)
    assert resize(registry, NODE, {"t:1": CLAIM}) == "gone"


def test_a_rebuild_keeps_allocations(registry: NodeRegistry) -> None:
    reserve(registry, NODE, "t:1", CLAIM, at=NOW)
    resize(registry, NODE, {"t:1": _less(100, 10)})
    registry.rebuild(NODE, {"t:1": (CLAIM, NOW, False), "t:2": (CLAIM, NOW, False)}, now=NOW)
    assert registry.allocations([NODE])[NODE] == {"t:1": _less(100, 10), "t:2": CLAIM}
    assert _reserved(registry) == Claim(110, 612, 0, 0, tasks=2)


def test_claims_that_fitted_only_as_allocations_are_cut_when_redis_forgot_these(
    registry: NodeRegistry, client: redis.Redis
) -> None:
    client.flushall()
    registry.put_node(_node())
    registry.rebuild(NODE, {f"t{n}:1": (_less(1024), NOW, False) for n in range(5)}, now=NOW)
    assert registry.allocations([NODE])[NODE] == {f"t{n}:1": _less(512) for n in range(5)}
    assert _reserved(registry).memory_mb == CAPACITY.memory_mb
