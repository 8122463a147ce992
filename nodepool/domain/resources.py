"""Amounts of what a node has and a task needs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from nodepool.domain.errors import InvalidInputError

# What a single request may ask for: far above any machine, far below an overflow of int32.
MAX_AMOUNT = 10_000_000
MEBIBYTES_PER_GIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Resources:
    """cpu_score and gpu_score in points (1000 = one core of the reference), memory in GiB.

    `memory_mb` is of a task that says its memory in MiB: memory_gb is that rounded up. 0: memory_gb says it.
    """

    cpu_score: int = 0
    memory_gb: int = 0
    gpu_score: int = 0
    gpu_memory_gb: int = 0
    memory_mb: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            amount = getattr(self, field.name)
            if amount < 0:
                raise InvalidInputError(f"{field.name} must be 0 or more, not {amount}")
            if amount > MAX_AMOUNT:
                raise InvalidInputError(f"{field.name} must be at most {MAX_AMOUNT}, not {amount}")
        if self.memory_mb and self.memory_gb != whole_gibibytes(self.memory_mb):
            raise InvalidInputError(
                f"memory_mb {self.memory_mb} and memory_gb {self.memory_gb} differ: name one of them"
            )

    @property
    def memory_mebibytes(self) -> int:
        return self.memory_mb or self.memory_gb * MEBIBYTES_PER_GIBIBYTE


def whole_gibibytes(mebibytes: int) -> int:
    """Rounded up."""
    return -(-mebibytes // MEBIBYTES_PER_GIBIBYTE)


@dataclass(frozen=True, slots=True)
class Overcommit:
    """How much more than its total a node's reservations may sum up to, per resource."""

    cpu: float = 1.5
    memory: float = 1.0
    gpu: float = 1.0
    gpu_memory: float = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a task takes on a node, in the units of the reservation (memory in MiB)."""

    cpu_score: int
    memory_mb: int
    gpu_score: int
    gpu_memory_gb: int
    tasks: int = 1


RESOURCE_NAMES = tuple(field.name for field in fields(Claim))


def claim_of(needs: Resources, *, default_memory_mb: int) -> Claim:
    """A task that names no memory is still given, and limited to, the pool's default."""
    return Claim(
        cpu_score=needs.cpu_score,
        memory_mb=needs.memory_mebibytes or default_memory_mb,
        gpu_score=needs.gpu_score,
        gpu_memory_gb=needs.gpu_memory_gb,
    )


def capacity_of(total: Resources, *, max_tasks: int, overcommit: Overcommit) -> Claim:
    """The most that reservations on a node may sum up to."""
    return Claim(
        cpu_score=int(total.cpu_score * overcommit.cpu),
        memory_mb=int(total.memory_gb * MEBIBYTES_PER_GIBIBYTE * overcommit.memory),
        gpu_score=int(total.gpu_score * overcommit.gpu),
        gpu_memory_gb=int(total.gpu_memory_gb * overcommit.gpu_memory),
        tasks=max_tasks,
    )
