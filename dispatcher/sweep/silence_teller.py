"""Tells of nodes that are late, lost with their work, or back. Each once, whoever sweeps.

Who is late or lost is noted in Redis, so that the next dispatcher that sweeps tells nothing again. A node is
back when it is heard of, and not when nobody calls it late: after an outage everybody has time to return.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dispatcher.context import Dispatcher
from nodepool.events.catalogue import NodeBack, NodeLate, NodeLost
from nodepool.events.telling import tell
from nodepool.stores.redis.liveness import NodeHeartbeat
from nodepool.stores.redis.silent_nodes import SilentNodes


class SilenceTeller:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._silent = SilentNodes(dispatcher.redis)
        self._late_seconds = dispatcher.settings.node_late_seconds

    def look(
        self,
        node_ids: Sequence[str],
        signs: Sequence[NodeHeartbeat],
        late: Collection[str],
        attempts: Mapping[str, int],
    ) -> None:
        """`node_ids`, with their signs in the same order: all nodes of the pool. `attempts`: of those with
        work, how many."""
        now = self._dispatcher.clock()
        known = self._silent.late()
        for node_id in self._silent.note_late(sorted(set(late) - known.keys()), now):
            tell(NodeLate(node=node_id, attempts=attempts.get(node_id, 0)))
        if not known:
            return
        heard = {
            node_id
            for node_id, sign in zip(node_ids, signs, strict=True)
            if sign.age_seconds <= self._late_seconds and node_id not in late
        }
        here = set(node_ids)
        back = self._silent.forget([node_id for node_id in known if node_id in heard or node_id not in here])
        for node_id in back:
            if node_id in heard:
                tell(NodeBack(node=node_id, seconds=max(0.0, now - known[node_id])))

    def lost(self, node_id: str, attempts: int) -> None:
        """A late node whose work is given away."""
        now = self._dispatcher.clock()
        for late in self._silent.note_late([node_id], now):
            tell(NodeLate(node=late, attempts=attempts))
        if self._silent.note_lost(node_id, now):
            tell(NodeLost(node=node_id, attempts=attempts))
