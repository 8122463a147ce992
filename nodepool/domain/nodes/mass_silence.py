"""Most of a fleet falls silent at once: theirs or ours? Pure.

Nodes that are heard prove the way to the pool, for those that are no farther from it than they are: an agent
on the pool's own machine says nothing of its line to the world, and one in its own network little of that to
the internet. Knows addresses, and no clock and no store: who is heard is the failure detector's to say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from enum import IntEnum

# One may be where the pool is without looking so.
LEAST_WITNESSES = 2


class NodeDistance(IntEnum):
    """How far away a node is, by the address that it registered from."""

    OWN_MACHINE = 0
    OWN_NETWORK = 1
    ELSEWHERE = 2


def reach_of(address: str, own: Collection[str]) -> NodeDistance | None:
    """None where that is not known. `own` are the addresses of the pool's machine."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if parsed.is_loopback or address in own:
        return NodeDistance.OWN_MACHINE
    return NodeDistance.OWN_NETWORK if parsed.is_private or parsed.is_link_local else NodeDistance.ELSEWHERE


def really_gone(
    silent: Mapping[str, NodeDistance | None], heard: Collection[NodeDistance | None]
) -> frozenset[str]:
    """Those that a pool which is whole could hear, for others are heard from as far."""
    gone = set()
    for node_id, reach in silent.items():
        wanted = NodeDistance.ELSEWHERE if reach is None else reach
        if sum(it is not None and it >= wanted for it in heard) >= LEAST_WITNESSES:
            gone.add(node_id)
    return frozenset(gone)
