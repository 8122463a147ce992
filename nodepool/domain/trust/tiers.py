"""Tiers of trust: which one a node has, and which ones a user's credit score opens. Pure.

What moves a score is in `credit`.
"""

from __future__ import annotations

from enum import StrEnum

HIGH_SCORE = 100
NORMAL_SCORE = 50


class Tier(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


# How agents and the existing workers say that Docker works, in lower case.
DOCKER_WORKS = frozenset({"running", "available", "ok", "true", "yes", "enabled", "ready"})

# From the most to the least trusted; also the order in which dispatchers serve them.
TIERS = (Tier.HIGH, Tier.NORMAL, Tier.LOW)
# The credit score that each takes.
SCORE_OF = {Tier.HIGH: HIGH_SCORE, Tier.NORMAL: NORMAL_SCORE, Tier.LOW: 0}
RANK = {tier: index for index, tier in enumerate(TIERS)}


def _tier_of_score(credit_score: int) -> Tier:
    if credit_score >= HIGH_SCORE:
        return Tier.HIGH
    return Tier.NORMAL if credit_score >= NORMAL_SCORE else Tier.LOW


def node_tier(credit_score: int, *, docker_works: bool) -> Tier:
    """A node's tier, by its owner's score; without Docker it is low whoever owns it."""
    return _tier_of_score(credit_score) if docker_works else Tier.LOW


def task_tier(credit_score: int) -> Tier:
    """The highest tier of node that the score opens for its owner's tasks."""
    return _tier_of_score(credit_score)


def opens(task: Tier, node: Tier) -> bool:
    """May a task of this tier run on a node of that one? A tier opens itself and those below."""
    return RANK[node] >= RANK[task]


def docker_counts(docker_status: str, *, shown: bool) -> bool:
    """`shown`: by a probe, which ran in a container there. What a node only says of itself is its word."""
    return shown and docker_works(docker_status)


def docker_works(docker_status: str) -> bool:
    """The words that agents and the existing workers register with."""
    return docker_status.strip().casefold() in DOCKER_WORKS
