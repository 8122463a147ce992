"""What can keep a task from a node: the clauses of placement, as values with their words.

Pure. Whoever decides by a clause asks for its kind, never for its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodepool.domain.capabilities import ALL, in_words


class ClauseKind(StrEnum):
    """In the order in which they are asked; a node counts under the first that it fails."""

    OTHER_NODE = "other_node"
    PUSHED = "pushed"
    NEEDS_AGENT = "needs_agent"
    NOT_ABLE = "not_able"
    OWNER_ONLY = "owner_only"
    TRUST = "trust"
    OTHER_OWNER = "other_owner"
    SECRETS = "secrets"
    MIN_TRUST = "min_trust"
    REGION = "region"
    GPU_NAME = "gpu_name"
    TOO_SMALL = "too_small"
    REFUSED_IT = "refused_it"
    IMAGE = "image"
    MESSAGE_SIZE = "message_size"
    LATER_GENERATION = "later_generation"
    UNTOLD = "untold"
    OFFLINE = "offline"
    UNFIT = "unfit"
    BACKS_OFF = "backs_off"
    DRAINING = "draining"
    ON_TRIAL = "on_trial"
    BUSY = "busy"


_WORDS = {
    ClauseKind.OTHER_NODE: "not the node asked for",
    ClauseKind.PUSHED: "without an agent: this pool gives work to agents only",
    ClauseKind.NEEDS_AGENT: "without an agent, which alone gives a task its image or the network",
    ClauseKind.NOT_ABLE: "with an older agent or none, which passes no {resource} on",
    ClauseKind.OWNER_ONLY: (
        "for tasks of its owner only: it cannot keep others' from what its agent can read"
    ),
    ClauseKind.TRUST: "trust tier above what the owner's credit opens",
    ClauseKind.OTHER_OWNER: "of an owner who has another run of it, or who submitted it",
    ClauseKind.SECRETS: "of low trust: its owner could read the secrets of the task",
    ClauseKind.MIN_TRUST: "below the trust that it asks for",
    ClauseKind.REGION: "in another region",
    ClauseKind.GPU_NAME: "with another GPU",
    ClauseKind.TOO_SMALL: "too small: {resource}",
    ClauseKind.REFUSED_IT: "refused it, and not changed since",
    ClauseKind.IMAGE: "without the image {resource}",
    ClauseKind.MESSAGE_SIZE: "takes messages of at most {resource}",
    ClauseKind.LATER_GENERATION: "of a later generation of the protocol, for which this pool has no work",
    ClauseKind.UNTOLD: "has not reported its status since it registered",
    ClauseKind.OFFLINE: "offline",
    ClauseKind.UNFIT: "unfit for now: a full disk, or something else that it says of itself",
    ClauseKind.BACKS_OFF: "left alone for a while: refused what it was given",
    ClauseKind.DRAINING: "draining",
    ClauseKind.ON_TRIAL: "busy: one task at a time until its results are verified",
    ClauseKind.BUSY: "busy: {resource}",
}
# By the fields of a Claim.
_RESOURCE_WORDS = {
    "cpu_score": "cpu_score",
    "memory_mb": "memory",
    "gpu_score": "gpu_score",
    "gpu_memory_gb": "GPU memory",
    "tasks": "task slots",
    **{capability.value: in_words(capability) for capability in ALL},
}
# These pass while one waits.
_PASSING = frozenset(
    {
        ClauseKind.REFUSED_IT,
        ClauseKind.IMAGE,
        ClauseKind.MESSAGE_SIZE,
        ClauseKind.UNTOLD,
        ClauseKind.OFFLINE,
        ClauseKind.UNFIT,
        ClauseKind.BACKS_OFF,
        ClauseKind.DRAINING,
        ClauseKind.ON_TRIAL,
        ClauseKind.BUSY,
    }
)


@dataclass(frozen=True, slots=True)
class Clause:
    """`resource`: of TOO_SMALL and BUSY, what of the claim there is too little of; of IMAGE its name; of
    NOT_ABLE the capability; of MESSAGE_SIZE the bound and what the task has."""

    kind: ClauseKind
    resource: str = ""

    @property
    def passes(self) -> bool:
        """Whether waiting alone may help."""
        return self.kind in _PASSING

    def __str__(self) -> str:
        resource = _RESOURCE_WORDS.get(self.resource, self.resource)
        return _WORDS[self.kind].format(resource=resource)
