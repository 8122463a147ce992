"""The dispatcher's picture of the fleet, kept like Redis without asking for all of it each time.

What this dispatcher reserves is in the picture at once. What others change is told by events, which may
be lost; so every node's liveness and its number of reservations are compared every so often, in a few
round trips, and what differs is read again. What is still missed costs a refused reservation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np

from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.scheduling.fleet import BoolArray, Fleet
from nodepool.domain.scheduling.planner import Planner
from nodepool.stores.redis.liveness import CHUNK_NODES, Liveness
from nodepool.stores.redis.node_registry import NodeRegistry

_TASKS = RESOURCE_NAMES.index("tasks")
_NOTHING = Claim(0, 0, 0, 0, tasks=0)


class FleetMirror:
    """For one thread. Raises UnavailableError when Redis cannot be reached."""

    def __init__(
        self, registry: NodeRegistry, liveness: Liveness, planner: Planner, late_seconds: float
    ) -> None:
        self._registry = registry
        self._liveness = liveness
        self._planner = planner
        self._late_seconds = late_seconds
        # Facts as they were read, to tell a change of them from a change of what is reserved.
        self._facts: dict[str, NodeView] = {}

    @property
    def fleet(self) -> Fleet:
        return self._planner.fleet

    def look_around(self, now: float) -> None:
        """Compare the whole fleet with Redis: who is there, who is alive, whose reservations differ."""
        for _ in self.look(now):
            pass

    def look(self, now: float) -> Iterator[None]:
        """The same in parts of a few milliseconds; what is done between them is seen."""
        known = self._registry.node_ids()
        for gone in self._facts.keys() - known:
            self._forget(gone, now)
        # New ones at once: each would have everything worked out anew.
        self.read(known - self._facts.keys(), now)
        ids = list(known)
        for start in range(0, len(ids), CHUNK_NODES):
            yield
            self._compare(ids[start : start + CHUNK_NODES], now)

    def _compare(self, ids: list[str], now: float) -> None:
        changed = set()
        for node_id, sign in zip(ids, self._liveness.signs(ids), strict=True):
            row = self.fleet.row_of.get(node_id)
            if row is None:
                continue  # it has left meanwhile
            online = sign.age_seconds <= self._late_seconds
            if online != self.fleet.online[row] or sign.listed != self.fleet.reserved[_TASKS, row]:
                changed.add(node_id)
        self.read(changed, now)

    def read(self, node_ids: Collection[str], now: float) -> None:
        """Bring these nodes up to date, and have tried again who could go there now."""
        ids = sorted(node_ids)
        facts_changed = False
        limited = self.fleet.one_task
        for node_id, view in zip(ids, self._registry.views(ids, self._late_seconds), strict=True):
            if view is None:
                self._forget(node_id, now)
                continue
            # History changes with many ends of tasks, and only the place of the node with it.
            facts = replace(view, online=True, reserved=_NOTHING, quality=1.0)
            row = self.fleet.put(view)
            if self._facts.get(node_id) != facts:
                self._facts[node_id] = facts
                facts_changed = True
            elif not facts_changed:
                self._planner.more_room(row, now)
        self._give_room(limited, now)
        if facts_changed:
            self._planner.facts_changed(now)

    def _give_room(self, limited: BoolArray, now: float) -> None:
        """Nodes of these that may have more than one task now, because no others are to be preferred."""
        ceased = limited & ~self.fleet.one_task[:, : limited.shape[1]]
        for row in np.flatnonzero(ceased.any(axis=0)).tolist():
            self._planner.more_room(row, now)

    def _forget(self, node_id: str, now: float) -> None:
        if self._facts.pop(node_id, None) is not None:
            self.fleet.remove(node_id)
            self._planner.facts_changed(now)
