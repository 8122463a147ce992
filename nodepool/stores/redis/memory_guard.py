"""Keeps the broker from filling up: output gives way first, then hints; reports and reservations never.

What goes can be had again: output is in the results, and hints are derived from SQL. It looks every so often
and frees by itself, so that nobody has to empty a full broker by hand.
"""

from __future__ import annotations

import logging
import time
from typing import cast

from nodepool.domain.broker_memory import MemoryUse, output_room
from nodepool.stores.redis import keys, scripts
from nodepool.stores.redis.client import Client, translated_errors
from nodepool.stores.redis.hint_queues import HintQueues
from nodepool.stores.redis.node_registry import MAX_REPORT_BYTES
from nodepool.stores.redis.output import OutputStore

log = logging.getLogger(__name__)
# As many hints of one queue say all that hints are for: the sweep tells of the oldest tasks again.
_MOST_HINTS, _HINTS_WHEN_SHORT = 10_000, 100
_NODES_AT_ONCE = 500
_SAID_AGAIN_SECONDS = 60.0


class MemoryGuard:
    """For one thread. Raises UnavailableError."""

    def __init__(self, client: Client, outputs: OutputStore, most_output_bytes: int) -> None:
        self._redis = client
        self._outputs = outputs
        self._hints = HintQueues(client)
        self._most_output_bytes = most_output_bytes
        self._empty_reports = client.register_script(scripts.EVEN_WHEN_FULL + scripts.EMPTY_LARGE_REPORTS)
        self._said_at = float("-inf")

    def look(self) -> MemoryUse:
        """What is there, after what can go has gone."""
        self._outputs.forget_due()
        self._hints.cut(_MOST_HINTS)
        use = self._use()
        total = self._outputs.total_bytes()
        self._outputs.room_bytes = room = output_room(use, total, self._most_output_bytes)
        if total > room:
            self._outputs.make_room()
        if use.over_bytes:
            self._empty_large_reports()
        if use.is_nearly_full:
            self._hints.cut(_HINTS_WHEN_SHORT)
            use = self._use()
            self._say(use)
        return use

    def _use(self) -> MemoryUse:
        with translated_errors():
            memory = self._redis.info("memory")
        uncounted = int(memory.get("mem_not_counted_for_evict", 0))
        return MemoryUse(int(memory["used_memory"]) - uncounted, int(memory.get("maxmemory", 0)))

    def _empty_large_reports(self) -> None:
        """Agents may write what they like into their reports; nobody reads more than MAX_REPORT_BYTES."""
        with translated_errors():
            ids = sorted(cast("set[bytes]", self._redis.smembers(keys.NODES)))
        emptied = 0
        for start in range(0, len(ids), _NODES_AT_ONCE):
            names = [keys.report(node_id.decode()) for node_id in ids[start : start + _NODES_AT_ONCE]]
            with translated_errors():
                emptied += cast(int, self._empty_reports(keys=names, args=[MAX_REPORT_BYTES]))
        if emptied:
            log.warning("%d reports of nodes were too large to be read and are emptied", emptied)

    def _say(self, use: MemoryUse) -> None:
        if time.monotonic() - self._said_at < _SAID_AGAIN_SECONDS:
            return
        self._said_at = time.monotonic()
        log.error(
            "the broker is %s: %d of %d MiB. Live output and hints gave way, the rest is needed: raise its "
            "maxmemory, or find out what else is in it (redis-cli --bigkeys)",
            "full" if use.is_full else "nearly full", use.used_bytes >> 20, use.limit_bytes >> 20,
        )  # fmt: skip
