"""What the node list says of a node's amounts: capacity, reserved, used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway import messages as views
from nodepool.domain.nodes.history import HistoryRules
from nodepool.domain.nodes.node import _MAX_NODE_MEMORY_GB as MAX_NODE_MEMORY_GB, NodeView
from nodepool.domain.resources import MAX_AMOUNT, Claim, Overcommit, Resources
from nodepool.domain.scheduling.reclaim import MeasuredUse
from nodepool.domain.trust.tiers import Tier
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis.node_registry import NodeReport
from nodepool.stores.sql import nodes as node_store
from tests.support.databases import sqlite_file
from tests.support.stores import add_node, add_user, migrated

OVERCOMMIT = Overcommit(cpu=1.5, memory=2.0, gpu=1.0, gpu_memory=1.0)


def shown(
    tmp_path: Path,
    uses: dict[str, MeasuredUse] | None,
    *,
    age: float = 1.0,
    reserved: Claim | None = None,
    **facts: Any,
) -> pb.WorkerNodeInfo:
    """The node list's entry of a node that reported these uses."""
    rules = HistoryRules()
    with migrated(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}") as database:
        database.write(lambda c: add_node(c, add_user(c), "n1", **facts))
        row = database.read(lambda c: node_store.find(c, "n1"))
    node = node_store.registered_node(row, OVERCOMMIT, rules, now=0.0)
    view = NodeView(
        node_id="n1",
        tier=Tier.HIGH,
        region="asia",
        gpu_name="",
        draining=False,
        online=True,
        capacity=node.capacity,
        reserved=reserved or Claim(0, 0, 0, 0, tasks=0),
    )
    report = None if uses is None else NodeReport(1.0, 1.0, tuple(uses), age, uses)
    return views.node_info(row, view, report, now=100.0, late_seconds=15.0, rules=rules)


def test_capacity_is_told_with_overcommit_and_use_as_the_sum_of_runs(tmp_path: Path) -> None:
    info = shown(
        tmp_path,
        {"a:1": MeasuredUse(100, 512), "b:1": MeasuredUse(50, 1000)},
        reserved=Claim(700, 1600, 20, 2, tasks=2),
        total=Resources(4000, 8, 100, 4),
    )
    assert (info.capacity_cpu_score, info.capacity_memory_mb) == (6000, 16384)
    assert (info.capacity_gpu_score, info.capacity_gpu_memory_gb) == (100, 4)
    assert (info.reserved_cpu_score, info.reserved_memory_mb, info.reserved_memory_gb) == (700, 1600, 2)
    assert (info.reserved_gpu_score, info.reserved_gpu_memory_gb, info.running_tasks) == (20, 2, 2)
    assert (info.used_cpu_score, info.used_memory_mb) == (150, 1512)


def test_no_more_is_used_than_the_node_has(tmp_path: Path) -> None:
    info = shown(
        tmp_path, {"a:1": MeasuredUse(MAX_AMOUNT, MAX_AMOUNT), "b:1": MeasuredUse(MAX_AMOUNT, MAX_AMOUNT)}
    )
    assert (info.used_cpu_score, info.used_memory_mb) == (4000, 8192)


@pytest.mark.parametrize("uses", [None, {"a:1": MeasuredUse(100, 100)}], ids=["no report", "a late one"])
def test_what_nobody_knows_now_is_not_told(tmp_path: Path, uses: dict[str, MeasuredUse] | None) -> None:
    info = shown(tmp_path, uses, age=16.0)
    assert (info.used_cpu_score, info.used_memory_mb) == (0, 0)


def test_the_largest_node_that_may_register_can_be_shown(tmp_path: Path) -> None:
    most = MAX_NODE_MEMORY_GB
    uses = {f"t{number}:1": MeasuredUse(MAX_AMOUNT, MAX_AMOUNT) for number in range(300)}
    info = shown(tmp_path, uses, total=Resources(MAX_AMOUNT, most, MAX_AMOUNT, most))
    assert info.capacity_memory_mb == 2 * most * 1024
    assert (info.used_cpu_score, info.used_memory_mb) == (MAX_AMOUNT, most * 1024)
