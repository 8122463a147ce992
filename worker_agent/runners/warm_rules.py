"""Which tasks may be begun in which sandbox that is kept warm. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from worker_agent.runners.base import RunSpec

MOST_SANDBOXES = 64


@dataclass(frozen=True, slots=True)
class SandboxKind:
    """What a sandbox is made with, and cannot be given later."""

    image: str
    network: bool
    gpu: bool
    tmpfs_bytes: int
    max_workdir_bytes: int
    pids_limit: int

    @classmethod
    def of(cls, spec: RunSpec) -> SandboxKind:
        return cls(
            spec.image,
            spec.network,
            spec.gpu,
            spec.tmpfs_bytes,
            spec.max_workdir_bytes,
            spec.pids_limit,
        )


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a sandbox that nobody has used yet can be given anew."""

    memory_bytes: int
    cpus: float

    @classmethod
    def of(cls, spec: RunSpec) -> SandboxLimits:
        return cls(spec.memory_bytes, spec.cpus)


@dataclass(slots=True)
class SandboxUse:
    """How a sandbox is, and has been, used. `owner` is empty until a task of somebody has run in it."""

    kind: SandboxKind
    limits: SandboxLimits
    owner: str = field(default="", repr=False)
    tasks: int = 0
    waits_since: float = 0.0
    ends_at: float = float("inf")  # of waiting


def fits_warm(spec: RunSpec, *, has_requirements: bool) -> bool:
    """What other steps made, and what a package wants installed, is shown by mounts of its own."""
    return spec.inputs_dir is None and not has_requirements


def choose(waiting: Collection[SandboxUse], spec: RunSpec, now: float) -> SandboxUse | None:
    """One that its owner has used, for the owner's next task alone; else one that nobody has.

    With secrets only the latter: what an earlier task may have left there could read them.
    """
    kind, limits = SandboxKind.of(spec), SandboxLimits.of(spec)
    alike = [use for use in waiting if use.kind == kind]
    if spec.again is not None and not spec.secrets:
        for use in alike:
            if use.owner == spec.again.owner and use.limits == limits and may_run_again(use, spec, now):
                return use
    unused = [use for use in alike if not use.owner and not use.tasks]
    # Whose limits need not be changed, first.
    return min(unused, key=lambda use: (use.limits != limits, use.waits_since), default=None)


def may_run_again(use: SandboxUse, spec: RunSpec, now: float) -> bool:
    again = spec.again
    if again is None or not again.owner or spec.secrets:
        return False
    return use.tasks < again.most_tasks and now < use.ends_at


def superfluous(
    waiting: Collection[SandboxUse], usual: SandboxKind, most: int, now: float
) -> list[SandboxUse]:
    """What waits for nobody: past its time, of a kind that is not asked for, or too many (the oldest)."""
    gone = [use for use in waiting if now >= use.ends_at or (not use.owner and use.kind != usual)]
    left = sorted((use for use in waiting if use not in gone), key=lambda use: use.waits_since)
    return gone + left[: max(0, len(left) - most)]
