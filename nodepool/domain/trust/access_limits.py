"""What a user may do with the credit score that they have: one table by trust tier. Pure.

A score that opens a tier has that tier's row. MAX_WAITING_TASKS_PER_USER bounds all of them. Limits on what
runs at once are kept by the dispatcher, all others when a task is submitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from nodepool.domain.errors import PermissionDeniedError
from nodepool.domain.resources import MAX_AMOUNT
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.domain.tasks.states import MAX_PRIORITY
from nodepool.domain.trust.tiers import SCORE_OF, TIERS, Tier, task_tier
from nodepool.domain.trust.voting import MAX_REPLICAS

_DAY_MINUTES = 1440
_YEAR_MINUTES = 366 * _DAY_MINUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLimits:
    """Names and units are those of `hivemind credit`. Needs are of one task."""

    unfinished_tasks: int  # waiting and running together
    running_tasks: int
    priority: int
    cpu_score: int
    memory_gb: int
    gpu_score: int
    gpu_memory_gb: int
    max_minutes: int
    replicas: int
    stored_mb: int  # packages and results that are kept, MiB
    nodes: int  # active ones that the user has in the pool
    network: int  # 1: may ask for it, where the pool gives it to tasks at all


LIMITS: Mapping[Tier, AccessLimits] = MappingProxyType(
    {
        Tier.HIGH: AccessLimits(
            unfinished_tasks=1_000_000,
            running_tasks=1_000_000,
            priority=MAX_PRIORITY,
            cpu_score=MAX_AMOUNT,
            memory_gb=MAX_AMOUNT,
            gpu_score=MAX_AMOUNT,
            gpu_memory_gb=MAX_AMOUNT,
            max_minutes=_YEAR_MINUTES,
            replicas=MAX_REPLICAS,
            stored_mb=1 << 20,
            nodes=10_000,
            network=1,
        ),
        # Of needs nothing: what no node can run only waits.
        Tier.NORMAL: AccessLimits(
            unfinished_tasks=100_000,  # one array of the largest
            running_tasks=1_000,
            priority=MAX_PRIORITY,
            cpu_score=MAX_AMOUNT,
            memory_gb=MAX_AMOUNT,
            gpu_score=MAX_AMOUNT,
            gpu_memory_gb=MAX_AMOUNT,
            max_minutes=_YEAR_MINUTES,
            replicas=MAX_REPLICAS,
            stored_mb=20 << 10,
            nodes=200,
            network=1,
        ),
        # Whoever came down to here has let others down, or is a stranger where newcomers begin here.
        Tier.LOW: AccessLimits(
            unfinished_tasks=50,
            running_tasks=5,
            priority=5,
            cpu_score=4000,
            memory_gb=8,
            gpu_score=0,
            gpu_memory_gb=0,
            max_minutes=120,
            replicas=3,
            stored_mb=1 << 10,
            nodes=10,
            network=0,
        ),
    }
)

# What can be read off the columns of a new task.
_CHECKED = (
    "priority", "cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb", "max_minutes", "replicas", "network",
)  # fmt: skip


def limits_of(score: int) -> AccessLimits:
    return LIMITS[task_tier(score)]


def as_pairs(limits: AccessLimits) -> list[tuple[str, int]]:
    """(name, most) of each, for people."""
    return [(field.name, getattr(limits, field.name)) for field in fields(limits)]


def check_access(columns: Mapping[str, Any], score: int) -> None:
    """Raises PermissionDeniedError, with what would be allowed, for what the score does not open.

    `columns` are those of a new task.
    """
    limits = limits_of(score)
    for name in _CHECKED:
        requested, most = int(columns.get(name) or 0), int(getattr(limits, name))
        if requested > most:
            raise PermissionDeniedError(_told(name, requested, most, score))


def _told(name: str, requested: int, most: int, score: int) -> str:
    opening = _opened_by(name, requested)
    needed = f"; it takes {SCORE_OF[opening]}" if opening is not None else ""
    if name == "network":
        return f"your credit score of {score} opens no network for tasks{needed}: ask for none"
    what = "none" if most == 0 else f"{name} {most} or less"
    return f"{name} {requested} is more than your credit score of {score} allows{needed}: ask for {what}"


def _opened_by(name: str, requested: int) -> Tier | None:
    """The lowest tier that allows it."""
    opening = [tier for tier in reversed(TIERS) if requested <= getattr(LIMITS[tier], name)]
    return opening[0] if opening else None


def running_limit(running: int, tier: Tier) -> Reason:
    """Why a task waits whose owner has as many running as they may."""
    if above := [SCORE_OF[other] for other in TIERS if SCORE_OF[other] > SCORE_OF[tier]]:
        return because(ReasonCode.RUNNING_LIMIT_BELOW, running=running, score=min(above))
    return because(ReasonCode.RUNNING_LIMIT_FROM, running=running, score=SCORE_OF[tier])


def unfinished_message(unfinished: int, score: int) -> str:
    return (
        f"you have {unfinished} unfinished tasks, as many as your credit score of {score} allows; "
        "wait until some have ended"
    )
