"""What a task asks of a node, in its owner's words, and the task as it waits for one.

Pure. One rule for all who look at a task that waits: placement, the explanation of it, the simulation.
A changed copy of a request is how a change is tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nodepool.domain import regions
from nodepool.domain.capabilities import capabilities_of
from nodepool.domain.money.pricing import to_hold_when_placed
from nodepool.domain.resources import Resources, claim_of
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.wait_queue import WaitingTask
from nodepool.domain.tasks.states import ORDERED_BY_POOL, LocationMode, TaskKind
from nodepool.domain.trust.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """What a task asks for in its owner's words; `requirements` is what placement makes of it."""

    needs: Resources
    tier: Tier
    min_trust: Tier | None = None
    region: str = regions.ANY
    location_mode: LocationMode = LocationMode.STRICT
    relaxed: bool = False  # it has waited long enough for the region that it prefers
    gpu_name: str = ""
    node_id: str = ""
    image: str = ""
    excluded: frozenset[str] = frozenset()
    refused_by: frozenset[str] = frozenset()
    not_owners: frozenset[int] = frozenset()
    needs_agent: bool = False
    capabilities: frozenset[str] = frozenset()
    secrets_of: int = 0  # see Requirements, as the next
    owner_id: int = 0
    over_bytes: int = 0
    package_bytes: int = 0

    def requirements(self, default_memory_mb: int) -> Requirements:
        return Requirements(
            claim=claim_of(self.needs, default_memory_mb=default_memory_mb),
            tier=self.tier,
            min_trust=self.min_trust,
            region=self.region,
            relaxed=self.relaxed,
            gpu_name=self.gpu_name.casefold(),
            node_id=self.node_id,
            image=self.image,
            excluded=self.excluded,
            refused_by=self.refused_by,
            not_owners=self.not_owners,
            needs_agent=self.needs_agent,
            capabilities=self.capabilities,
            secrets_of=self.secrets_of,
            owner_id=self.owner_id,
            over_bytes=self.over_bytes,
            package_bytes=self.package_bytes,
        )


class TaskToPlace(Protocol):
    """A task that is stored, or one that is only thought of."""

    @property
    def kind(self) -> TaskKind: ...
    @property
    def owner_id(self) -> int: ...
    @property
    def cpu_score(self) -> int: ...
    @property
    def memory_gb(self) -> int: ...
    @property
    def memory_mb(self) -> int: ...
    @property
    def gpu_score(self) -> int: ...
    @property
    def gpu_memory_gb(self) -> int: ...
    @property
    def gpu_name(self) -> str: ...
    @property
    def tier(self) -> Tier: ...
    @property
    def min_trust(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def location_mode(self) -> LocationMode: ...
    @property
    def pinned_node(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def network(self) -> bool: ...
    @property
    def capabilities(self) -> str: ...
    @property
    def secrets(self) -> str: ...
    @property
    def secrets_on_low_trust(self) -> bool: ...


def request_of(
    task: TaskToPlace,
    excluded: frozenset[str],
    not_owners: frozenset[int],
    default_image: str,
    *,
    relaxed: bool = False,
    owner_id: int = 0,
    refused_by: frozenset[str] = frozenset(),
    over_bytes: int = 0,
) -> PlacementRequest:
    """What the task asks for; `excluded` nodes had it before, `not_owners` and
    `refused_by` may not have it.

    `owner_id` is its owner where that counts (Fleet.owner_that_counts), and `over_bytes` what counts of its
    size (Fleet.too_small_for).
    """
    # Who only prefers a region does not choose by it who checks the result.
    relaxed = relaxed or (task.kind == TaskKind.AUDIT and task.location_mode == LocationMode.PREFER)
    return PlacementRequest(
        needs=Resources(task.cpu_score, task.memory_gb, task.gpu_score, task.gpu_memory_gb, task.memory_mb),
        tier=task.tier,
        min_trust=Tier(task.min_trust) if task.min_trust else None,
        region=task.region,
        location_mode=task.location_mode,
        relaxed=relaxed,
        gpu_name=task.gpu_name,
        node_id=task.pinned_node,
        image=task.image,
        excluded=excluded,
        refused_by=refused_by,
        not_owners=not_owners,
        # A node that is pushed to is told neither.
        needs_agent=bool(task.network or task.image != default_image),
        capabilities=capabilities_of(task.capabilities),
        secrets_of=task.owner_id if task.secrets and not task.secrets_on_low_trust else 0,
        owner_id=owner_id,
        over_bytes=over_bytes,
    )


class TaskInQueue(TaskToPlace, Protocol):
    """What decides its place among those who wait, too."""

    @property
    def id(self) -> str: ...
    @property
    def priority(self) -> int: ...
    @property
    def created_at(self) -> float: ...
    @property
    def queued_at(self) -> float: ...
    @property
    def attempt_number(self) -> int: ...
    @property
    def package_bytes(self) -> int: ...
    @property
    def job_index(self) -> int: ...
    @property
    def holds_when_placed(self) -> bool: ...
    @property
    def price_per_minute(self) -> int: ...
    @property
    def max_minutes(self) -> int: ...
    @property
    def hold_again(self) -> int: ...


def waiting_task(task: TaskInQueue, request: PlacementRequest, default_memory_mb: int) -> WaitingTask:
    """The task in the wait queue."""
    return WaitingTask(
        task_id=task.id,
        owner_id=task.owner_id,
        requirements=request.requirements(default_memory_mb),
        priority=task.priority,
        created_at=task.created_at,
        queued_at=task.queued_at or task.created_at,
        attempt_number=task.attempt_number,
        location_mode=task.location_mode,
        limited=task.kind not in ORDERED_BY_POOL,
        package_bytes=task.package_bytes,
        job_index=task.job_index,
        to_hold=to_hold_when_placed(task),
    )
