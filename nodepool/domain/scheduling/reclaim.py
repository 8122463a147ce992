"""How much is kept for a run of what its task asked for, from what the run is measured to use. Pure.

The claim is what the task asked for and pays for; the allocation is what is reserved for it now, never
more. CPU and memory are taken back and given again; GPUs and places are not. Who runs short of CPU is
slowed, so CPU is shared; who runs short of memory is killed, so memory is made free by eviction.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodepool.domain.resources import Claim

# No run is left less than this, or than its claim where that is less.
MIN_MEMORY_MB = 64
MIN_CPU_SCORE = 50
# The use that counts is the largest of this time.
WINDOW_SECONDS = 300.0
# A run that uses this share of its allocation is given more.
NEAR = 0.9
# An allocation is not lowered for less than this share of it.
_LEAST_CHANGE = 0.1
_RECLAIMABLE = {"memory_mb": MIN_MEMORY_MB, "cpu_score": MIN_CPU_SCORE}
_SLOTS = 10
_SLOT_SECONDS = WINDOW_SECONDS / _SLOTS


@dataclass(frozen=True, slots=True)
class MeasuredUse:
    """What a run was measured to use."""

    cpu_score: int
    memory_mb: int


@dataclass(slots=True)
class UsageWindow:
    """What is remembered of a run's use: its last, and the largest of the window."""

    since: float
    last: MeasuredUse | None = None
    _slots: deque[tuple[int, MeasuredUse]] = field(default_factory=deque)

    def note(self, use: MeasuredUse, at: float) -> None:
        self.last = use
        slot = int(at // _SLOT_SECONDS)
        if self._slots and self._slots[-1][0] == slot:
            use = _larger(use, self._slots.pop()[1])
        self._slots.append((slot, use))
        while self._slots[0][0] <= slot - _SLOTS:
            self._slots.popleft()

    def peak(self, *, at: float, after_seconds: float) -> MeasuredUse | None:
        """None while the run was not watched for `after_seconds`: too little is known to take from it."""
        if self.last is None or at - self.since < after_seconds:
            return None
        largest = self.last
        for _, use in self._slots:
            largest = _larger(largest, use)
        return largest


def _larger(one: MeasuredUse, other: MeasuredUse) -> MeasuredUse:
    return MeasuredUse(max(one.cpu_score, other.cpu_score), max(one.memory_mb, other.memory_mb))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A live attempt of the node that is looked at."""

    attempt_id: str
    claim: Claim
    kept: Claim  # its allocation
    placed_at: float
    credit_score: int  # of its task's owner
    last: MeasuredUse | None = None
    peak: MeasuredUse | None = None  # None: nothing is taken from it


@dataclass(frozen=True, slots=True)
class ReclaimPlan:
    """Allocations that change, and who has to go for them."""

    allocations: Mapping[str, Claim]
    victim: str = ""


@dataclass(frozen=True, slots=True)
class _Demand:
    """Of one resource: what a run is to have, and below what it is in danger."""

    wanted: int
    needed: int = 0


def is_reclaimed(run: RunView) -> bool:
    return run.kept.memory_mb < run.claim.memory_mb


def is_settled(runs: Sequence[RunView], *, margin: float, restore: bool = False) -> bool:
    """Nobody is to have more or less, so that `plan` is not needed."""
    return all(
        demand.wanted == getattr(run.kept, resource)
        for resource, least in _RECLAIMABLE.items()
        for run, demand in zip(
            runs, _demands(runs, resource, least, margin, restore=restore).values(), strict=True
        )
    )


def plan(
    runs: Sequence[RunView], *, room: Claim, margin: float, restore: bool = False, may_evict: bool = True
) -> ReclaimPlan:
    """What the runs of one node are to have.

    `room` is the node's capacity without what is reserved for others than these runs. With `restore`
    everybody is to have the whole claim again. At most one run is evicted at a time, because what
    that brings is seen only afterwards.
    """
    demands = _demands(runs, "memory_mb", MIN_MEMORY_MB, margin, restore=restore)
    memory, short = _share_memory(runs, demands, room.memory_mb)
    victim = ""
    if short and may_evict:
        victim = min(runs, key=_rank).attempt_id
        demands[victim] = _Demand(0)
        memory, _ = _share_memory(runs, demands, room.memory_mb)
    wanted = _demands(runs, "cpu_score", MIN_CPU_SCORE, margin, restore=restore)
    cpu = _share_cpu(runs, {name: demand.wanted for name, demand in wanted.items()}, room.cpu_score)
    changed = {}
    for run in runs:
        name = run.attempt_id
        allocation = replace(run.kept, cpu_score=cpu[name], memory_mb=memory[name])
        if allocation != run.kept:
            changed[name] = allocation
    return ReclaimPlan(changed, victim)


def _demands(
    runs: Iterable[RunView], resource: str, least: int, margin: float, *, restore: bool
) -> dict[str, _Demand]:
    demands = {}
    for run in runs:
        claim, kept = getattr(run.claim, resource), getattr(run.kept, resource)
        last, peak = (None if use is None else getattr(use, resource) for use in (run.last, run.peak))
        demands[run.attempt_id] = (
            _Demand(claim, claim) if restore else _demand(claim, kept, last, peak, margin, min(claim, least))
        )
    return demands


def _demand(claim: int, kept: int, last: int | None, peak: int | None, margin: float, least: int) -> _Demand:
    if last is not None and last >= NEAR * kept:
        wanted = min(claim, max(kept, least, math.ceil(max(last, peak or 0) * (1 + margin))))
        return _Demand(wanted, min(wanted, math.ceil(last / NEAR)))
    kept = min(claim, kept)
    if peak is None:
        return _Demand(kept)
    wanted = min(kept, max(least, math.ceil(peak * (1 + margin))))
    return _Demand(wanted if kept - wanted > kept * _LEAST_CHANGE else kept)


def _rank(run: RunView) -> tuple[int, float, str]:
    """The lowest is the first to go: of the least trusted the youngest."""
    return run.credit_score, -run.placed_at, run.attempt_id


def _share_memory(
    runs: Sequence[RunView], demands: Mapping[str, _Demand], room: int
) -> tuple[dict[str, int], bool]:
    """What is given up is taken; then what is needed is given, then what is wanted, in order of trust
    and age. True when somebody's need is left."""
    given = {run.attempt_id: min(run.kept.memory_mb, demands[run.attempt_id].wanted) for run in runs}
    left = max(0, room - sum(given.values()))
    best_first = [run.attempt_id for run in sorted(runs, key=_rank, reverse=True)]
    for amounts in (
        {name: demands[name].needed for name in best_first},
        {name: demands[name].wanted for name in best_first},
    ):
        for name, amount in amounts.items():
            more = min(left, max(0, amount - given[name]))
            given[name] += more
            left -= more
    return given, any(given[name] < demand.needed for name, demand in demands.items())


def _share_cpu(runs: Sequence[RunView], wanted: Mapping[str, int], room: int) -> Mapping[str, int]:
    """All that is wanted, or of too little to each by its claim, and to nobody more than it wants."""
    if sum(wanted.values()) <= room:
        return wanted
    claims = {run.attempt_id: run.claim.cpu_score for run in runs if run.claim.cpu_score}
    left, weight = max(0, room), sum(claims.values())
    given = dict.fromkeys(wanted, 0)
    for name in sorted(claims, key=lambda name: wanted[name] / claims[name]):
        given[name] = min(wanted[name], left * claims[name] // weight)
        left -= given[name]
        weight -= claims[name]
    return given
