"""Hints that may be lost: whatever waits is told of again, as SQL says."""

from __future__ import annotations

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.messaging.names import PLACE, partition_queue
from nodepool.messaging.publisher import Hint
from nodepool.stores.sql import tasks as task_store

_TOLD_AT_ONCE = 500
_MIN_HINT_AGE_SECONDS = 5.0
# Dispatchers that are behind are not told more often of the same.
_MAX_WAITING_HINTS = 1000


def tell_again(dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
    """Tell of waiting tasks whose hint may be lost: this dispatcher at once, all of them by a new hint."""
    now = dispatcher.clock()
    oldest = dispatcher.database.read(lambda c: task_store.queued(c, _TOLD_AT_ONCE))
    placement_loop.hint(*(row.id for row in oldest if not placement_loop.is_known(row.id)))
    before = now - max(_MIN_HINT_AGE_SECONDS, 2 * dispatcher.settings.sweep_period_seconds)
    stale = dispatcher.database.read(lambda c: task_store.queued(c, _TOLD_AT_ONCE, hinted_before=before))
    if not stale:
        return
    placement_loop.hint(*(row.id for row in stale if not placement_loop.is_known(row.id)))
    lengths = dispatcher.registry.queue_lengths({partition_queue(row.tier, row.region) for row in stale})
    room = {queue: _MAX_WAITING_HINTS - length for queue, length in lengths.items()}
    hints = []
    for row in stale:
        queue = partition_queue(row.tier, row.region)
        room[queue] -= 1
        if room[queue] >= 0:
            hints.append(Hint(PLACE, row.id, queue))
    dispatcher.publisher.send_all(hints)
    ids = [row.id for row in stale]
    dispatcher.database.write(lambda c: task_store.mark_hinted(c, ids, now))
