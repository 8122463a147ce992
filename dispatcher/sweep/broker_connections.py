"""Connections of agents to the broker: the newest beyond what one agent may have are cut.

The broker itself bounds connections in all only, so one agent could take them from everybody. It knows
nothing of what agents do over them.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from nodepool.domain import ids
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.connections import Connections

log = logging.getLogger(__name__)
# The list of all connections is long: it is read this often, or when there are suddenly many more.
_PERIOD_SECONDS = 10.0
_MANY_MORE = 64
_MOST_CUT_AT_ONCE = 20_000


def beyond(clients: Sequence[Mapping[str, str]], most: int) -> list[str]:
    """Ids of the newest connections over `most` of each agent's user."""
    of_user: dict[str, list[int]] = defaultdict(list)
    for client in clients:
        user = client.get("user", "")
        if user.startswith(ids.BROKER_USER_PREFIX):
            of_user[user].append(int(client["id"]))
    return [str(number) for numbers in of_user.values() for number in sorted(numbers)[most:]]


class BrokerGuard:
    """For one thread. Raises UnavailableError."""

    def __init__(self, client: Client, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._connections = Connections(client)
        self._most = most
        self._clock = clock
        self._next_at = 0.0
        self._before = 0

    def look(self) -> None:
        connected = self._connections.count()
        if self._clock() < self._next_at and connected < self._before + _MANY_MORE:
            return
        cut = beyond(self._connections.listed(), self._most)[:_MOST_CUT_AT_ONCE]
        self._connections.cut(cut)
        self._next_at = self._clock() + _PERIOD_SECONDS
        self._before = connected - len(cut)
        if cut:
            log.warning("%d connections of agents are cut: more than %d of one agent", len(cut), self._most)
