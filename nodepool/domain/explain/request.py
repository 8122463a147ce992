"""What `ExplainTask` is asked with: a task's wishes in its owner's words, and the pool at one moment.

Pure. A changed copy of either is how a change, or an act of somebody else, is tried.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from nodepool.domain import regions
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Resources, claim_of
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.fleet import BoolArray, Fleet
from nodepool.domain.scheduling.placement import Wish
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRequest:
    """A task's wishes in the words of its owner; `wish` is what placement makes of them."""

    needs: Resources
    tier: Tier
    min_trust: Tier | None = None
    region: str = regions.ANY
    location_mode: LocationMode = LocationMode.STRICT
    relaxed: bool = False  # it has waited long enough for the region that it prefers
    gpu_name: str = ""
    node_id: str = ""
    excluded: frozenset[str] = frozenset()
    not_owners: frozenset[int] = frozenset()
    needs_agent: bool = False
    owner_id: int = 0  # see Wish

    def wish(self, default_memory_mb: int) -> Wish:
        return Wish(
            claim=claim_of(self.needs, default_memory_mb=default_memory_mb),
            tier=self.tier,
            min_trust=self.min_trust,
            region=self.region,
            relaxed=self.relaxed,
            gpu_name=self.gpu_name.casefold(),
            node_id=self.node_id,
            excluded=self.excluded,
            not_owners=self.not_owners,
            needs_agent=self.needs_agent,
            owner_id=self.owner_id,
        )


class TaskWishes(Protocol):
    """A task that is stored, or one that is only thought of."""

    @property
    def cpu_score(self) -> int: ...
    @property
    def memory_gb(self) -> int: ...
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


def asked_of(
    task: TaskWishes,
    excluded: frozenset[str],
    not_owners: frozenset[int],
    default_image: str,
    *,
    relaxed: bool = False,
    owner_id: int = 0,
) -> PlacementRequest:
    """What the task asks for; `excluded` nodes had it before, `not_owners` may not have it."""
    return PlacementRequest(
        needs=Resources(task.cpu_score, task.memory_gb, task.gpu_score, task.gpu_memory_gb),
        tier=task.tier,
        min_trust=Tier(task.min_trust) if task.min_trust else None,
        region=task.region,
        location_mode=task.location_mode,
        relaxed=relaxed,
        gpu_name=task.gpu_name,
        node_id=task.pinned_node,
        excluded=excluded,
        not_owners=not_owners,
        # A node that is pushed to is told neither.
        needs_agent=bool(task.network or task.image != default_image),
        owner_id=owner_id,
    )


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Ids of nodes that take less work than they look like: placement sees the effect, not the cause."""

    engine_away: frozenset[str] = frozenset()  # the agent's Docker has stopped: as if draining
    engine_away_too: frozenset[str] = frozenset()  # the same, and its owner drains it
    on_probation: frozenset[str] = frozenset()  # one task at a time, whatever its owner offers


@dataclass(frozen=True, slots=True)
class PoolView:
    """A fleet as it is, the same fleet with nothing reserved, and what the operator has set."""

    fleet: Fleet
    idle: Fleet
    gpu_words: MappingProxyType[str, str]  # names of GPUs as their nodes write them, by their casefold
    default_memory_mb: int
    patience_seconds: float  # how long a region that is only preferred is waited for
    engine_away: BoolArray  # these three by row, for HeldBack
    engine_away_too: BoolArray
    on_probation: BoolArray

    @classmethod
    def of(
        cls,
        views: Iterable[NodeView],
        *,
        default_memory_mb: int,
        patience_seconds: float = 0.0,
        allow_pushed: bool = False,
        least_owners: int = Fleet.least_owners,
        held_back: HeldBack | None = None,
    ) -> PoolView:
        views = list(views)
        fleet = Fleet.of(views, allow_pushed=allow_pushed)
        fleet.least_owners = least_owners
        words = MappingProxyType({view.gpu_name.casefold(): view.gpu_name for view in views})
        idle = as_if(fleet, reserved=np.zeros_like(fleet.reserved))
        held_back = held_back or HeldBack()
        return cls(
            fleet,
            idle,
            words,
            default_memory_mb,
            patience_seconds,
            _rows(fleet, held_back.engine_away),
            _rows(fleet, held_back.engine_away_too),
            _rows(fleet, held_back.on_probation),
        )

    def takers(self, asked: PlacementRequest, fleet: Fleet | None = None) -> tuple[str, ...]:
        """The nodes that would take it, best first: the real placement, run now."""
        return placement.decide(
            asked.wish(self.default_memory_mb), self.fleet if fleet is None else fleet
        ).ranked


def _rows(fleet: Fleet, node_ids: Iterable[str]) -> BoolArray:
    mask = np.zeros(len(fleet.present), dtype=np.bool_)
    mask[[fleet.row_of[node_id] for node_id in node_ids if node_id in fleet.row_of]] = True
    return mask


def as_if(fleet: Fleet, **columns: Any) -> Fleet:
    """The same fleet with other columns; the one that was given stays as it is."""
    other = copy.copy(fleet)
    for name, column in columns.items():
        setattr(other, name, column)
    return other
