"""Another server is the broker now: after a failover, or a restart.

It has the data as far as that got there, and not the users that agents connect with. Knows nothing of why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from nodepool.stores.redis import broker_users
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.connections import Connections

log = logging.getLogger(__name__)


class BrokerChange:
    """For one thread. `active` reads the nodes that are in the pool, `check` raises where the server is
    another pool's. Raises UnavailableError."""

    def __init__(
        self, client: Client, active: Callable[[], Collection[str]], check: Callable[[], None]
    ) -> None:
        self._client = client
        self._connections = Connections(client)
        self._active, self._check = active, check
        self._server = ""

    def look(self) -> bool:
        """Whether it is another one than at the last look; then the agents' users have been put back."""
        server = self._connections.server()
        if server == self._server:
            return False
        self._check()
        count = broker_users.put_back(self._client, self._active)
        if self._server:
            log.warning("the broker is another server now: the users of %d agents were put back", count)
        # Not before: where it failed it is tried again.
        self._server = server
        return True
