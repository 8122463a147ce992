"""One reservation at a time: the product makes many in one round trip."""

from __future__ import annotations

from collections.abc import Mapping

from nodepool.domain.resources import Claim
from nodepool.stores.redis.node_registry import NodeRegistry, RegistryAnswer, Reservation


def reserve(
    registry: NodeRegistry, node_id: str, attempt_id: str, claim: Claim, *, at: float, owner_id: int = 0
) -> RegistryAnswer:
    return registry.reserve_all([Reservation(node_id, attempt_id, claim, owner_id)], at=at)[0]


def resize(registry: NodeRegistry, node_id: str, allocations: Mapping[str, Claim]) -> RegistryAnswer:
    return registry.resize_all([(node_id, allocations)])[0]
