"""What a node may claim to have, and how much of it is believed before it has shown anything. Pure.

A claim that no machine can keep is refused. One that a machine could keep is believed up to a bound until
tasks have ended well on the node, or where its owner's credit score is high: a false claim then draws no
more tasks than an honest machine of that size would.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.trust.tiers import SCORE_OF, Tier

# So many attempts that ended well, decayed, show that there is a machine behind the claim.
PROVEN_AFTER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """The operator's choices: MAX_NODE_… and UNPROVEN_NODE_…."""

    most: Resources
    most_cores: int
    unproven: Resources
    unproven_tasks: int


def check(total: Resources, cpu_cores: int, rules: ClaimRules) -> None:
    """Raises InvalidInputError, which names what is too much."""
    claims = {
        "cpu_cores": (cpu_cores, rules.most_cores),
        "cpu_score": (total.cpu_score, rules.most.cpu_score),
        "memory_gb": (total.memory_gb, rules.most.memory_gb),
        "gpu_score": (total.gpu_score, rules.most.gpu_score),
        "gpu_memory_gb": (total.gpu_memory_gb, rules.most.gpu_memory_gb),
    }
    for name, (claimed, most) in claims.items():
        if claimed > most:
            raise InvalidInputError(
                f"{name} {claimed} is more than the {most} that this pool believes of a node: register "
                f"what the machine has, or ask the pool's operator for a higher MAX_NODE_{name.upper()}"
            )


def is_proven(good: float, credit_score: int) -> bool:
    """`good`: attempts that ended well on the node, decayed."""
    return good >= PROVEN_AFTER or credit_score >= SCORE_OF[Tier.HIGH]


def believed(total: Resources, rules: ClaimRules) -> Resources:
    """Of a node that is not proven."""
    bound = rules.unproven
    return Resources(
        min(total.cpu_score, bound.cpu_score),
        min(total.memory_gb, bound.memory_gb),
        min(total.gpu_score, bound.gpu_score),
        min(total.gpu_memory_gb, bound.gpu_memory_gb),
    )


def bounded(capacity: Claim, rules: ClaimRules) -> Claim:
    """The tasks at once of a node that is not proven."""
    return replace(capacity, tasks=min(capacity.tasks, rules.unproven_tasks))
