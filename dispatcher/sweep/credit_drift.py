"""Credit scores drift towards the start value also where nothing else moves them; a part of the sweep.

With it goes what was left behind when somebody's tier changed: waiting tasks that still have the old one.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from nodepool.stores.sql import credit as credit_store

log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0
_AT_ONCE = 500


class CreditDrift:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._next_at = float("-inf")

    def look(self) -> None:
        """Once a minute. Raises UnavailableError."""
        dispatcher = self._dispatcher
        now, start = dispatcher.clock(), dispatcher.settings.newcomer_credit_score
        if now < self._next_at:
            return
        self._next_at = now + _LOOK_SECONDS
        changed = dispatcher.database.write(
            lambda c: credit_store.drift_all(c, start=start, now=now, limit=_AT_ONCE)
        )
        changed |= dispatcher.database.read(credit_store.owners_of_stale_tasks)
        for owner_id in changed:
            dispatcher.lifecycle.sync_nodes_of(owner_id)
        if changed:
            log.info("the tiers of %d users are brought in line with their credit scores", len(changed))
