"""Which nodes are known to be late, and which to be lost with their work, since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull


class SilentNodes:
    """Raises UnavailableError when Redis cannot be reached. Of two who note the same, one is told so."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)

    def late(self) -> dict[str, float]:
        """Since when, Unix seconds."""
        with translated_errors():
            found = cast(dict[bytes, bytes], self._redis.hgetall(keys.LATE_NODES))
        return {node_id.decode(): float(since) for node_id, since in found.items()}

    def note_late(self, node_ids: Sequence[str], now: float) -> list[str]:
        """Those for which it is news."""
        return [node_id for node_id in node_ids if self._note(keys.LATE_NODES, node_id, now)]

    def note_lost(self, node_id: str, now: float) -> bool:
        return self._note(keys.LOST_NODES, node_id, now)

    def forget(self, node_ids: Sequence[str]) -> list[str]:
        """They are heard of again, or have left. Those that were known to be late."""
        gone = []
        for node_id in node_ids:
            with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
                pipe.hdel(keys.LATE_NODES, node_id)
                pipe.hdel(keys.LOST_NODES, node_id)
                was_late, _ = pipe.execute()
            if was_late:
                gone.append(node_id)
        return gone

    def _note(self, key: str, node_id: str, now: float) -> bool:
        with translated_errors():
            return bool(self._always("HSETNX", key, node_id, repr(now)))
