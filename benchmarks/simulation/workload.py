"""Nodes, users and tasks of a simulation, all from one seed. Pure: writes nothing anywhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nodepool.domain import regions
from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.nodes.node import NodeKind, default_max_tasks
from nodepool.domain.tasks.states import DEFAULT_PRIORITY, LocationMode, TaskState
from nodepool.domain.trust.access_limits import AccessLimits, limits_of
from nodepool.domain.trust.tiers import Tier, task_tier

# Scores of users, and how many of a hundred have them: high, normal and low trust.
_SCORES, _SCORE_WEIGHTS = (120, 70, 20), (20, 50, 30)
_REGIONS = tuple(slug for slug in regions.NODE_REGIONS if slug != regions.UNKNOWN)
_REGION_WEIGHTS = (30, 5, 25, 5, 30, 5)
_WITHOUT_DOCKER = 0.1
_NAMES_ITS_GPU = 0.5
_ASKS_FOR_REGION, _ONLY_PREFERS = 0.4, 0.3
_ASKS_FOR_TRUST, _OTHER_PRIORITY = 0.1, 0.3


@dataclass(frozen=True, slots=True)
class NodeShape:
    weight: int
    cores: int
    memory_gb: int
    gpu_name: str = ""
    gpu_score: int = 0
    gpu_memory_gb: int = 0


@dataclass(frozen=True, slots=True)
class TaskShape:
    """What tasks need; memory 0 is the pool's default."""

    weight: int
    cpu_score: int
    memory_gb: int
    gpu_score: int = 0
    gpu_memory_gb: int = 0

    def is_within(self, limits: AccessLimits) -> bool:
        return all(
            getattr(self, name) <= getattr(limits, name)
            for name in ("cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb")
        )


MACHINES = (
    NodeShape(25, 4, 8),
    NodeShape(30, 8, 16),
    NodeShape(15, 8, 32, "RTX 4060", 2000, 8),
    NodeShape(8, 16, 64, "RTX 4090", 8000, 24),
    NodeShape(15, 16, 64),
    NodeShape(5, 32, 128),
    NodeShape(2, 64, 256, "A100", 12000, 80),
)
SHAPES = (
    TaskShape(25, 250, 0),
    TaskShape(20, 500, 1),
    TaskShape(20, 1000, 2),
    TaskShape(12, 2000, 4),
    TaskShape(6, 4000, 8),
    TaskShape(3, 8000, 16),
    TaskShape(2, 1000, 12),
    TaskShape(6, 1000, 4, 1000, 6),
    TaskShape(4, 2000, 8, 4000, 16),
    TaskShape(2, 4000, 16, 8000, 24),
)
GPU_NAMES = tuple(machine.gpu_name for machine in MACHINES if machine.gpu_name)


@dataclass(frozen=True, slots=True)
class VirtualUser:
    user_id: int
    name: str
    score: int


class Workload:
    """The same seed makes the same nodes and tasks in the same order."""

    def __init__(self, seed: int, users: int) -> None:
        self._random = random.Random(seed)
        scores = [max(_SCORES), *self._random.choices(_SCORES, _SCORE_WEIGHTS, k=users - 1)]
        self.users = [VirtualUser(number, f"user{number}", score) for number, score in enumerate(scores, 1)]
        # Whoever has as many unfinished tasks as they may have running hands in no more.
        self._handing_in = list(self.users)
        self._tasks_of: Counter[int] = Counter()
        self._made = 0

    def nodes(self, count: int, now: float) -> Iterator[dict[str, Any]]:
        """Rows of the table of nodes."""
        rng = self._random
        for number in range(count):
            owner = rng.choice(self.users)
            machine = rng.choices(MACHINES, [machine.weight for machine in MACHINES])[0]
            region = rng.choices(_REGIONS, _REGION_WEIGHTS)[0]
            yield {
                "id": f"{owner.name}/n{number:06d}",
                "owner_id": owner.user_id,
                "hostname": f"host{number}",
                "port": 0,
                "kind": NodeKind.AGENT,
                "cpu_cores": machine.cores,
                "cpu_score": machine.cores * rng.randrange(700, 1300, 50),
                "memory_gb": machine.memory_gb,
                "gpu_score": machine.gpu_score,
                "gpu_memory_gb": machine.gpu_memory_gb,
                "gpu_name": machine.gpu_name,
                "location": region,
                "region": region,
                "docker_status": "unavailable" if rng.random() < _WITHOUT_DOCKER else "running",
                "isolation": Isolation.BUBBLEWRAP,
                "max_tasks": default_max_tasks(machine.cores),
                "registered_at": now,
                "history_at": now,
            }

    def tasks(self, count: int, now: float) -> list[dict[str, Any]]:
        """Rows of the table of tasks, all of them waiting since now."""
        return [self._task(now) for _ in range(count)]

    def _task(self, now: float) -> dict[str, Any]:
        rng = self._random
        owner = rng.choice(self._handing_in)
        limits = limits_of(owner.score)
        self._tasks_of[owner.user_id] += 1
        if self._tasks_of[owner.user_id] == min(limits.running_tasks, limits.unfinished_tasks):
            self._handing_in.remove(owner)
        shapes = [shape for shape in SHAPES if shape.is_within(limits)]
        shape = rng.choices(shapes, [shape.weight for shape in shapes])[0]
        tier = task_tier(owner.score)
        region, mode = regions.ANY, LocationMode.STRICT
        if rng.random() < _ASKS_FOR_REGION:
            region = rng.choices(_REGIONS, _REGION_WEIGHTS)[0]
            mode = LocationMode.PREFER if rng.random() < _ONLY_PREFERS else LocationMode.STRICT
        other = rng.random() < _OTHER_PRIORITY
        trusting = tier is Tier.LOW or rng.random() >= _ASKS_FOR_TRUST
        return task_row(
            self.next_id(),
            owner,
            shape,
            now,
            gpu_name=rng.choice(GPU_NAMES) if shape.gpu_score and rng.random() < _NAMES_ITS_GPU else "",
            region=region,
            location_mode=mode,
            priority=rng.randint(0, limits.priority) if other else DEFAULT_PRIORITY,
            min_trust="" if trusting else Tier.NORMAL,
        )

    def next_id(self) -> str:
        self._made += 1
        return f"task_{self._made:06d}{self._random.getrandbits(48):012x}"


def task_row(
    task_id: str, owner: VirtualUser, shape: TaskShape, now: float, **requirements: Any
) -> dict[str, Any]:
    """A row of the table of tasks; what it asks for are columns of it."""
    return {
        "id": task_id,
        "owner_id": owner.user_id,
        "state": TaskState.QUEUED,
        "cpu_score": shape.cpu_score,
        "memory_gb": shape.memory_gb,
        "gpu_score": shape.gpu_score,
        "gpu_memory_gb": shape.gpu_memory_gb,
        "gpu_name": "",
        "region": regions.ANY,
        "tier": task_tier(owner.score),
        "priority": DEFAULT_PRIORITY,
        "min_trust": "",
        "location_mode": LocationMode.STRICT,
        "image": "image",
        "network": False,
        "max_minutes": 60,
        "package_sha256": "0" * 64,
        "package_bytes": 1,
        "created_at": now,
        "updated_at": now,
        "hinted_at": now,
        "queued_at": now,
        **requirements,
    }
