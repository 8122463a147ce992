"""The pool at one moment, as an explanation of placement is asked with it.

Pure. A changed copy is how an act of somebody else is tried.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from nodepool.domain.nodes.node import NodeView
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.fleet import BoolArray, Fleet
from nodepool.domain.scheduling.request import PlacementRequest


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

    def takers(self, request: PlacementRequest, fleet: Fleet | None = None) -> tuple[str, ...]:
        """The nodes that would take it, best first: the real placement, run now."""
        return placement.decide(
            request.requirements(self.default_memory_mb), self.fleet if fleet is None else fleet
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
