"""Nodes as the stores return them."""

from __future__ import annotations

from dataclasses import dataclass

from nodepool.domain.nodes.fitness import Refusals, images_from_json
from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.history import NodeHistory
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.trust.benchmark_probe import Belief
from nodepool.stores.sql.typed_rows import FromRow


@dataclass(frozen=True, slots=True)
class StoredNode(FromRow):
    """What a node said of itself, what the pool found out, and what its owner is trusted with."""

    id: str
    owner_id: int
    owner: str
    credit_score: int  # of the owner
    hostname: str
    port: int
    kind: NodeKind
    cpu_cores: int
    cpu_score: int
    memory_gb: int
    gpu_score: int
    gpu_memory_gb: int
    gpu_name: str
    location: str
    region: str
    docker_status: str
    isolation: str
    accepts_strangers: bool
    capabilities: str
    max_tasks: int
    draining: bool
    active: bool
    history_good: float
    history_bad: float
    history_speed_sum: float
    history_speed_weight: float
    history_at: float
    bad_streak: int
    measured_cpu_score: int
    engine_shown: bool
    unfit: str
    refused_in_row: int
    refused_user: int
    backoff_until: float
    absent_images: str
    message_bytes: int
    message_bytes_at: float
    generation: Generation
    paused_until: float | None
    verified: int | None
    strikes: int | None  # of the owner

    @property
    def refusals(self) -> Refusals:
        return Refusals(
            in_row=self.refused_in_row,
            last_user=self.refused_user,
            backoff_until=self.backoff_until,
            absent_images=images_from_json(self.absent_images),
            message_bytes=self.message_bytes,
            message_bytes_at=self.message_bytes_at,
        )

    @property
    def history(self) -> NodeHistory:
        return NodeHistory(
            good=self.history_good,
            bad=self.history_bad,
            speed_sum=self.history_speed_sum,
            speed_weight=self.history_speed_weight,
            at=self.history_at,
            bad_streak=self.bad_streak,
        )


@dataclass(frozen=True, slots=True)
class NodePresence(FromRow):
    """What a sweep asks of every active node."""

    id: str
    kind: NodeKind
    registered_at: float
    heard_at: float  # when a gateway that had no Redis last heard of it


@dataclass(frozen=True, slots=True)
class DueNode(FromRow):
    """A node whose turn it is to be probed, with what is believed of it."""

    id: str
    probe_due_at: float
    cpu_cores: int
    cpu_score: int
    measured_cpu_score: int
    slow_probes: int
    docker_status: str
    engine_shown: bool
    credit_score: int  # of its owner

    @property
    def belief(self) -> Belief:
        return Belief(claimed=self.cpu_score, measured=self.measured_cpu_score, slow=self.slow_probes)
