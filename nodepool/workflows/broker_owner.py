"""Before a part of the pool changes anything in the broker: is it this database's?

Asked at the start and ever after, since an address may lead to another server tomorrow.
"""

from __future__ import annotations

import logging

from nodepool.domain.broker_owner import (
    NAMED_CHARACTERS,
    BrokerOwner,
    ForeignBrokerError,
    owner_of,
    refusal,
)
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.pool_mark import PoolMark
from nodepool.stores.sql import nodes as node_store, pool_records
from nodepool.stores.sql.database import Database

log = logging.getLogger(__name__)


class OwnBroker:
    """Thread-safe."""

    def __init__(self, database: Database, client: Client) -> None:
        self._database = database
        self._mark = PoolMark(client)
        self._pool_id = ""

    @property
    def pool_id(self) -> str:
        if not self._pool_id:
            self._pool_id = self._database.read(pool_records.pool_id) or self._database.write(
                pool_records.make_pool_id
            )
        return self._pool_id

    def owner(self) -> tuple[BrokerOwner, str]:
        """And the mark that is there. Raises UnavailableError; changes nothing there."""
        mark = self._mark.read()
        nodes = [] if mark else self._mark.some_nodes()
        knows = bool(nodes) and self._database.read(lambda c: node_store.knows_any(c, nodes))
        return owner_of(mark, self.pool_id, has_nodes=bool(nodes), knows_nodes=knows), mark

    def check(self) -> None:
        """Raises ForeignBrokerError, UnavailableError. One that is nobody's is this pool's afterwards."""
        pool_id = self.pool_id
        owner, mark = self.owner()
        if owner is BrokerOwner.NOBODY:
            mark = self._mark.claim(pool_id)
            owner = BrokerOwner.OURS if mark == pool_id else BrokerOwner.ANOTHER
            log.info("the broker was nobody's: it is pool %s's now", mark[:NAMED_CHARACTERS])
        if owner is BrokerOwner.ANOTHER:
            raise ForeignBrokerError(refusal(mark, pool_id))
