"""A node's facts that placement goes by, as SQL has them and the registry keeps them at hand. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.resources import Claim
from nodepool.domain.trust.tiers import Tier


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    node_id: str
    tier: Tier
    region: str
    gpu_name: str
    kind: str
    draining: bool
    capacity: Claim
    quality: float = 1.0  # 0-1, of its history
    owner_id: int = 0
    owner_only: bool = False
    on_trial: bool = False  # these as in NodeView
    unfit: str = ""
    backs_off: bool = False
    absent_images: tuple[str, ...] = ()
    capabilities: str = ""
    message_bytes: int = 0
    generation: str = ""
