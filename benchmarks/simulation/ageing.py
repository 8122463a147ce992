"""Nobody starves: a low and a normal task in a pool that high ones always fill, on a clock that is moved."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.simulation.checks import Violations
from benchmarks.simulation.life import end_some, live
from benchmarks.simulation.stage import Stage, open_stage
from benchmarks.simulation.workload import TaskShape, VirtualUser, task_row
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain import regions
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.trust.tiers import TIERS, Tier
from nodepool.stores.sql.tables import tasks

_START = 1_000_000.0
_STEP_SECONDS = 30.0
_TIER_SECONDS = 600.0
_NODES, _SLOTS = 10, 4
# The line looks at the clock every so often, and the placement loop is asked once a step.
_LAG_SECONDS = 2 * _STEP_SECONDS
_ENDING = 6
_SHAPE = TaskShape(1, 1000, 1)
_USERS = {
    Tier.HIGH: VirtualUser(1, "high", 120),
    Tier.NORMAL: VirtualUser(2, "normal", 70),
    Tier.LOW: VirtualUser(3, "low", 20),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeingResult:
    """Seconds of the moved clock that each waited, and the most that it may."""

    waited: dict[str, float]
    bounds: dict[str, float]


def measure(folder: Path, seed: int, found: Violations) -> AgeingResult:
    """More high tasks come all the time than there is room for."""
    now = [_START]
    with open_stage(
        folder, clock=lambda: now[0], tier_ageing_seconds=_TIER_SECONDS, node_late_seconds=60.0
    ) as stage:
        stage.add_users(_USERS.values())
        stage.add_nodes(_nodes())
        waited = _watch(stage, now, random.Random(seed))
    bounds = {
        tier.value: rank * _TIER_SECONDS + _LAG_SECONDS for rank, tier in enumerate(TIERS) if tier in waited
    }
    for tier, bound in bounds.items():
        if waited[tier] > bound:
            found.add(
                "starved", f"a {tier} task waited {waited[tier]:.0f} s, at most {bound:.0f} are allowed"
            )
    return AgeingResult(waited=waited, bounds=bounds)


def _watch(stage: Stage, now: list[float], rng: random.Random) -> dict[str, float]:
    placement_loop = PlacementLoop(stage.dispatcher)
    count = 0

    def more(number: int, tier: Tier) -> list[str]:
        nonlocal count
        count += number
        rows = [
            task_row(f"{tier}{count - index:05d}", _USERS[tier], _SHAPE, now[0]) for index in range(number)
        ]
        return stage.add_tasks(rows)

    placement_loop.hint(*more(2 * _NODES * _SLOTS, Tier.HIGH))
    placement_loop.work()
    observed = {tier: more(1, tier)[0] for tier in (Tier.NORMAL, Tier.LOW)}
    placement_loop.hint(*observed.values())
    waited: dict[str, float] = {}
    end = _START + (len(TIERS) + 1) * _TIER_SECONDS
    while now[0] < end and len(waited) < len(observed):
        now[0] += _STEP_SECONDS
        placement_loop.hint(*more(_ENDING + 1, Tier.HIGH))
        end_some(stage, rng.sample(live(stage), _ENDING))
        placement_loop.look_again()
        placement_loop.work()
        for tier, task_id in observed.items():
            if tier not in waited and _state(stage, task_id) != TaskState.QUEUED:
                waited[tier.value] = now[0] - _START
    return {tier.value: waited.get(tier.value, float("inf")) for tier in observed}


def _state(stage: Stage, task_id: str) -> str:
    query = select(tasks.c.state).where(tasks.c.id == task_id)
    return str(stage.dispatcher.database.read(lambda c: c.execute(query).scalar_one()))


def _nodes() -> Iterator[dict[str, Any]]:
    for number in range(_NODES):
        yield {
            "id": f"low/n{number}",
            "owner_id": _USERS[Tier.LOW].user_id,
            "hostname": "host",
            "port": 0,
            "kind": NodeKind.AGENT,
            "cpu_cores": _SLOTS,
            "cpu_score": 1000 * _SLOTS,
            "memory_gb": _SLOTS,
            "gpu_score": 0,
            "gpu_memory_gb": 0,
            "gpu_name": "",
            "location": "asia",
            "region": regions.NODE_REGIONS[0],
            "docker_status": "running",
            "max_tasks": _SLOTS,
            "registered_at": _START,
            "history_at": _START,
        }
