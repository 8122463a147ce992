"""Where a task goes: filter, then rank, over an immutable snapshot, with reasons.

Pure and optimistic: the atomic reservation is the judge, so a choice made on a stale snapshot
costs a second try and never a wrong allocation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from nodepool import regions
from nodepool.node import NodeKind, NodeView
from nodepool.resources import RESOURCE_NAMES, Claim
from nodepool.trust import RANK, Tier, opens

# Clauses in the order they are asked; a node counts under the first that it fails.
OFFLINE = "offline"
DRAINING = "draining"
OTHER_NODE = "not the node asked for"
PUSHED = "without an agent: this pool gives work to agents only"
EXCLUDED = "lost or refused this task before"
TRUST = "trust tier above what the owner's credit opens"
REGION = "in another region"
GPU_NAME = "has another GPU"
TOO_SMALL = "too small: {}"
BUSY = "busy: {}"

_CLAIM_WORDS = {
    "cpu_score": "cpu_score",
    "memory_mb": "memory",
    "gpu_score": "gpu_score",
    "gpu_memory_gb": "GPU memory",
    "tasks": "task slots",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a task asks of its node."""

    claim: Claim
    tier: Tier
    region: str = regions.ANY
    gpu_name: str = ""
    node_id: str = ""  # only this node, when not empty
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """Nodes that fit, best first, and how many failed on which clause."""

    ranked: tuple[str, ...]
    failed: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0

    def reason(self) -> str:
        """One sentence with numbers: why no node was chosen."""
        if self.looked_at == 0:
            return "waiting: no node has joined the pool yet"
        parts = ", ".join(f"{count} {clause}" for clause, count in self.failed.most_common())
        hopeless = self.never_fits()
        head = "no node of the pool can ever run this" if hopeless else "waiting"
        return f"{head}: looked at {self.looked_at} nodes: {parts}"

    def never_fits(self) -> bool:
        """True when waiting alone cannot help: no node failed for a reason that passes."""
        passing = (OFFLINE, DRAINING, EXCLUDED, BUSY.split(":", maxsplit=1)[0])
        return not self.ranked and not any(clause.startswith(passing) for clause in self.failed)


def place(wish: Wish, nodes: Iterable[NodeView]) -> Decision:
    """Choose among `nodes`. A node that lost the task before is taken only when there is no other."""
    fitting: list[NodeView] = []
    fallback: list[NodeView] = []
    failed: Counter[str] = Counter()
    looked_at = 0
    for node in nodes:
        looked_at += 1
        clause = failed_clause(wish, node)
        if clause:
            failed[clause] += 1
        elif node.node_id in wish.excluded:
            fallback.append(node)
        else:
            fitting.append(node)
    chosen = sorted(fitting, key=_rank_key) + sorted(fallback, key=_rank_key)
    return Decision(tuple(node.node_id for node in chosen), failed, looked_at)


def failed_clause(wish: Wish, node: NodeView) -> str | None:
    """The first clause that keeps the node from running the task, or None."""
    return _mismatch(wish, node) or _too_small(wish.claim, node) or _not_now(wish.claim, node)


def _mismatch(wish: Wish, node: NodeView) -> str | None:
    if wish.node_id and node.node_id != wish.node_id:
        return OTHER_NODE
    if node.kind is not NodeKind.AGENT:
        return PUSHED
    # Who names a node of his own trusts it.
    if not wish.node_id and not opens(wish.tier, node.tier):
        return TRUST
    if wish.region not in (regions.ANY, node.region):
        return REGION
    if wish.gpu_name and wish.gpu_name.casefold() != node.gpu_name.casefold():
        return GPU_NAME
    return None


def _too_small(claim: Claim, node: NodeView) -> str | None:
    for name in RESOURCE_NAMES:
        if getattr(claim, name) > getattr(node.capacity, name):
            return TOO_SMALL.format(_CLAIM_WORDS[name])
    return None


def _not_now(claim: Claim, node: NodeView) -> str | None:
    if not node.online:
        return OFFLINE
    if node.draining:
        return DRAINING
    for name in RESOURCE_NAMES:
        if getattr(node.reserved, name) + getattr(claim, name) > getattr(node.capacity, name):
            return BUSY.format(_CLAIM_WORDS[name])
    return None


def load_of(node: NodeView) -> float:
    """The largest reserved share of any resource the node has: 0 idle, 1 full."""
    shares = [
        getattr(node.reserved, name) / getattr(node.capacity, name)
        for name in RESOURCE_NAMES
        if getattr(node.capacity, name)
    ]
    return max(shares, default=1.0)


def _rank_key(node: NodeView) -> tuple[int, float, int, str]:
    # Best fit last: the smaller of two equal nodes keeps the larger one free for larger tasks.
    return (RANK[node.tier], load_of(node), node.capacity.cpu_score, node.node_id)
