"""Nodes that left, and what they left behind: their rows, broker users, keys and queues.

A node that is not heard of for NODE_DAYS has left. Nobody is taken for one that left before this dispatcher
has listened for a while: after a long outage of the pool everybody's last word is old.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from nodepool.domain import ids
from nodepool.domain.tasks.retention import DAY_SECONDS
from nodepool.events.catalogue import LeaveCause
from nodepool.stores.redis import broker_users
from nodepool.stores.redis.leftovers import Leftovers
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.monitor_words import MonitorWords
from nodepool.stores.sql import left_nodes, nodes as node_store

log = logging.getLogger(__name__)
NOTED_SECONDS = 3600.0
_AT_ONCE = 500
_LISTENED_SECONDS = 3600.0


class LeftNodes:
    """For one thread. Raises UnavailableError."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._liveness = Liveness(dispatcher.redis)
        self._leftovers = Leftovers(dispatcher.redis)
        self._listens_since = dispatcher.clock()

    def note_seen(self) -> None:
        """Once an hour: who is heard of now."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        known = sorted(dispatcher.database.read(left_nodes.active_ids))
        late = dispatcher.settings.node_late_seconds
        signs = self._liveness.signs(known)
        heard = [node for node, sign in zip(known, signs, strict=True) if sign.age_seconds <= late]
        for start in range(0, len(heard), _AT_ONCE):
            page = heard[start : start + _AT_ONCE]
            dispatcher.database.write(lambda c: left_nodes.note_seen(c, page, now))  # noqa: B023

    def take_out(self) -> int:
        """Nodes that are silent for long leave, as if they had said so. How many."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        days = dispatcher.settings.node_days
        if not days or now - self._listens_since < _LISTENED_SECONDS:
            return 0
        before = now - days * DAY_SECONDS
        silent = dispatcher.database.read(lambda c: left_nodes.silent(c, before, _AT_ONCE))
        signs = self._liveness.signs(silent)
        gone = [node for node, sign in zip(silent, signs, strict=True) if sign.age_seconds == float("inf")]
        for node_id in gone:
            dispatcher.database.write(lambda c: node_store.deactivate(c, node_id, LeaveCause.SILENT))  # noqa: B023
            broker_users.delete(dispatcher.redis, node_id)
            dispatcher.registry.remove_node(node_id)
            MonitorWords(dispatcher.redis).left(node_id)
        forgotten = dispatcher.database.write(lambda c: left_nodes.forget(c, before, _AT_ONCE))
        if forgotten:
            log.info("%d nodes that left long ago are forgotten", forgotten)
        return len(gone) + forgotten

    def remove_keys(self) -> int:
        """A part of all keys in Redis: those of nodes that are not in the pool any more."""
        found = self._leftovers.scan()
        if not found:
            return 0
        # After the keys were seen: a node that registers meanwhile is there.
        wanted = sorted(found)
        here = self._dispatcher.database.read(lambda c: left_nodes.active_among(c, wanted))
        left = [key for node_id, keys in found.items() if node_id not in here for key in keys]
        self._leftovers.delete(left)
        return len(left)

    def remove_users(self) -> int:
        """Broker users of nodes that are not in the pool any more."""
        users = self._leftovers.users()
        if not users:
            return 0
        nodes = self._dispatcher.database.read(left_nodes.active_ids)
        left = set(users).difference(map(ids.broker_user, nodes))
        self._leftovers.delete_users(left)
        if left:
            log.info("%d broker users of nodes that left are deleted", len(left))
        return len(left)
