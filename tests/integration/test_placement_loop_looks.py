"""The placement loop looks at the fleet again and again, in parts: what no event has told it sees too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dispatcher import context
from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.scheduling.planner import Planner
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.redis.liveness import CHUNK_NODES
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from tests.support.databases import sqlite_file
from tests.support.stores import add_node, add_task, add_user
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

NODES = 2 * CHUNK_NODES + 1  # three parts


@pytest.fixture
def dispatcher(valkey: TestValkey, tmp_path: Path) -> Iterator[Dispatcher]:
    settings = Settings.model_validate(
        {"redis_url": valkey.url, "db_path": sqlite_file(tmp_path / "pool.db")}
    )
    dispatcher = context.build(settings)
    yield dispatcher
    dispatcher.close()


def nodes(dispatcher: Dispatcher) -> list[str]:
    """Registered and never heard of."""
    owner_id = dispatcher.database.write(add_user)
    ids = [f"n{number:04}" for number in range(NODES)]
    dispatcher.database.write(lambda c: [add_node(c, owner_id, node_id) for node_id in ids])
    rows = dispatcher.database.read(node_store.active)
    dispatcher.registry.put_nodes([dispatcher.lifecycle.facts_of(row) for row in rows])
    return ids


def placed_on(dispatcher: Dispatcher) -> list[str]:
    return [row.node_id for row in dispatcher.database.read(task_store.live_attempts)]


def test_every_part_of_the_fleet_is_looked_at(dispatcher: Dispatcher) -> None:
    ids = nodes(dispatcher)
    owner_id = dispatcher.database.write(lambda c: add_user(c, "ada"))
    tasks = [
        dispatcher.database.write(lambda c: add_task(c, owner_id, cpu_score=4000, memory_gb=8))
        for _ in range(3)
    ]
    placement_loop = PlacementLoop(dispatcher)
    placement_loop.hint(*tasks)
    placement_loop.start()
    try:
        wait_until(lambda: len(placement_loop.planner.queue) == 3, "the tasks wait")
        for count, node_id in enumerate((ids[0], ids[-1], ids[NODES // 2]), 1):
            dispatcher.redis.set(keys.report(node_id), "{}", ex=keys.REPORT_TTL_SECONDS)
            wait_until(lambda: len(placed_on(dispatcher)) == count, "the node is seen", 120)  # noqa: B023
            assert node_id in placed_on(dispatcher)
    finally:
        placement_loop.stop()


def test_a_node_whose_history_alone_changed_does_not_have_all_wishes_worked_out_anew(
    dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes(dispatcher)
    placement_loop = PlacementLoop(dispatcher)
    placement_loop.work()
    anew: list[float] = []
    monkeypatch.setattr(Planner, "facts_changed", lambda _planner, now: anew.append(now))
    node = dispatcher.database.read(lambda c: node_store.find(c, "n0007"))
    facts = dispatcher.lifecycle.facts_of(node)
    row = placement_loop.planner.fleet.row_of["n0007"]
    before = placement_loop.planner.fleet.rank[row]
    for quality in (0.3, 0.2):
        dispatcher.registry.put_node(replace(facts, quality=quality))
        placement_loop.node_changed("n0007")
        placement_loop.work()
        assert anew == []
    assert placement_loop.planner.fleet.rank[row] > before
    dispatcher.registry.put_node(replace(facts, draining=True))
    placement_loop.node_changed("n0007")
    placement_loop.work()
    assert len(anew) == 1
