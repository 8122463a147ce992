"""Redis as SQL has it: which nodes there are, what is known of them, what is assigned to them.

All of it at the start and after trouble. Later every pass sees at once which nodes Redis does not know,
and where the number of assignments is not SQL's, or not that of the room that is kept; facts are compared
for a part of the fleet in each pass, so that ten thousand nodes cost little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from dispatcher.context import Dispatcher
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.stores.redis.liveness import Liveness, NodeHeartbeat
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.node_rows import StoredNode

# Nodes that one statement asks for.
_AT_ONCE = 500
_COMPARED_WITHIN_PASSES = 30
# A node's history moves its quality all the time; less than this changes no placement.
_QUALITY_STEP = 0.05

Live = Mapping[str, Sequence[LiveAttempt]]


class RotatingSlices:
    """Parts of the fleet in turn: all of a small one each time, of a large one all within some passes."""

    def __init__(self, within_passes: int, at_least: int = _AT_ONCE) -> None:
        self._within_passes = within_passes
        self._at_least = at_least
        self._position = 0

    def take(self, node_ids: Sequence[str]) -> Sequence[str]:
        size = max(self._at_least, -(-len(node_ids) // self._within_passes))
        if size >= len(node_ids):
            return node_ids
        start = self._position if self._position < len(node_ids) else 0
        self._position = start + size
        return node_ids[start : self._position]


class Reconciler:
    """For one thread. Raises UnavailableError when SQL or Redis cannot be reached."""

    def __init__(self, dispatcher: Dispatcher, liveness: Liveness) -> None:
        self._dispatcher = dispatcher
        self._liveness = liveness
        self._turns = RotatingSlices(_COMPARED_WITHIN_PASSES)
        self._thorough = True
        # What differed in the last pass: placements and ends under way differ for a moment.
        self._doubts: dict[str, frozenset[str]] = {}

    def distrust(self) -> None:
        """Redis was away and may have forgotten something: the next pass looks at everything."""
        self._thorough = True

    def restore(
        self, known: set[str], node_ids: Sequence[str], live: Live, signs: Sequence[NodeHeartbeat]
    ) -> None:
        """`known` are the nodes that Redis had before SQL was read, `signs` what it says of `node_ids`."""
        dispatcher = self._dispatcher
        thorough, self._thorough = self._thorough, True
        missing = [node_id for node_id in node_ids if node_id not in known]
        self._write(missing)
        compared = node_ids if thorough else self._turns.take(node_ids)
        differing = {
            # Seen at one moment, so no placement or end under way explains it.
            *(node_id for node_id, sign in zip(node_ids, signs, strict=True) if not sign.agrees),
            *self._changed(compared, missing),
            *self._doubtful(node_ids, live, signs, compared, thorough=thorough),
        }
        for node_id in sorted(differing.difference(missing)):
            dispatcher.lifecycle.sync_node(node_id)
        for gone in known.difference(node_ids):
            dispatcher.registry.remove_node(gone)
        self._thorough = False  # and still true where this pass did not come to its end

    def _write(self, node_ids: Sequence[str]) -> None:
        """Many nodes that Redis does not know; after a FLUSHALL all of them."""
        if not node_ids:
            return
        dispatcher = self._dispatcher
        live: dict[str, list[LiveAttempt]] = defaultdict(list)
        for attempt in dispatcher.database.read(task_store.live_attempts):
            live[attempt.node_id].append(attempt)
        for start in range(0, len(node_ids), _AT_ONCE):
            rows = list(self._rows(node_ids[start : start + _AT_ONCE]))
            dispatcher.registry.put_nodes([dispatcher.lifecycle.facts_of(row) for row in rows])
            listed = {
                row.id: {it.id: (it.claim, it.created_at, it.stop_requested) for it in live[row.id]}
                for row in rows
            }
            dispatcher.registry.rebuild_all(listed, now=dispatcher.clock())

    def _rows(self, node_ids: Sequence[str]) -> Iterator[StoredNode]:
        """Those that are still active."""
        for start in range(0, len(node_ids), _AT_ONCE):
            ids = node_ids[start : start + _AT_ONCE]
            yield from self._dispatcher.database.read(lambda c: node_store.active_among(c, ids))  # noqa: B023

    def _changed(self, node_ids: Sequence[str], missing: Collection[str]) -> set[str]:
        """Nodes whose facts in Redis are not SQL's."""
        dispatcher = self._dispatcher
        skipped = set(missing)
        ids = [node_id for node_id in node_ids if node_id not in skipped]
        rows = {row.id: row for row in self._rows(ids)}
        views = dispatcher.registry.views(ids, dispatcher.settings.node_late_seconds)
        changed = set()
        for node_id, view in zip(ids, views, strict=True):
            row = rows.get(node_id)
            if row is not None and not _same_facts(view, dispatcher.lifecycle.facts_of(row)):
                changed.add(node_id)
        return changed

    def _doubtful(
        self,
        node_ids: Sequence[str],
        live: Live,
        signs: Sequence[NodeHeartbeat],
        compared: Sequence[str],
        *,
        thorough: bool,
    ) -> set[str]:
        """Nodes whose assignments in Redis are not SQL's, and were not in the last pass either."""
        suspects = {
            node_id
            for node_id, sign in zip(node_ids, signs, strict=True)
            if sign.listed != len(live.get(node_id, ()))
        }
        suspects.update(node_id for node_id in compared if live.get(node_id))
        doubts = {}
        found = self._liveness.listed(sorted(suspects))
        ended = self._release_ended(found, live)
        for node_id, listed in found.items():
            difference = (listed - ended) ^ {row.id for row in live.get(node_id, ())}
            if difference:
                doubts[node_id] = frozenset(difference)
        before, self._doubts = self._doubts, doubts
        return {
            node_id
            for node_id, difference in doubts.items()
            if thorough or difference.intersection(before.get(node_id, ()))
        }

    def _release_ended(self, listed: Mapping[str, Collection[str]], live: Live) -> set[str]:
        """What has ended has ended for good: nobody waits for another pass before its room is free."""
        dispatcher = self._dispatcher
        of_node = {
            attempt_id: node_id
            for node_id, names in listed.items()
            for attempt_id in set(names).difference(row.id for row in live.get(node_id, ()))
        }
        if not of_node:
            return set()
        ended = dispatcher.database.read(lambda c: task_store.ended_among(c, of_node))
        if ended:
            dispatcher.registry.release_all([(of_node[attempt_id], attempt_id) for attempt_id in ended])
            dispatcher.registry.announce(*{of_node[attempt_id] for attempt_id in ended})
        return ended


def _same_facts(view: NodeView | None, node: RegisteredNode) -> bool:
    return (
        view is not None
        and (view.tier, view.region, view.gpu_name, view.kind, view.draining, view.capacity)
        == (node.tier, node.region, node.gpu_name, node.kind, node.draining, node.capacity)
        and (view.owner_id, view.owner_only, view.on_trial) == (node.owner_id, node.owner_only, node.on_trial)
        and (view.unfit, view.backs_off, view.absent_images, view.capabilities)
        == (node.unfit, node.backs_off, node.absent_images, node.capabilities)
        and (view.message_bytes, view.generation) == (node.message_bytes, node.generation)
        and abs(view.quality - node.quality) < _QUALITY_STEP
    )
