"""Which dispatcher sweeps now: a lock with a TTL, which whoever sweeps renews in time."""

from __future__ import annotations

import secrets
from enum import Enum

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, any_error_translated
from nodepool.stores.redis.even_when_full import EvenWhenFull


class LockHolder(Enum):
    """Who has the lock."""

    OURS_NOW = "ours now"  # it was another's, or Redis had lost it
    STILL_OURS = "still ours"
    ANOTHER = "another"


class SweepLock:
    """Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)
        self._token = secrets.token_hex(8)

    def take(self, ttl_seconds: float) -> LockHolder:
        """Ours for so long, where no other dispatcher has it."""
        ttl_ms = int(ttl_seconds * 1000)
        with any_error_translated():
            if self._always("SET", keys.SWEEPER, self._token, "NX", "PX", ttl_ms):
                return LockHolder.OURS_NOW
            if self._redis.get(keys.SWEEPER) != self._token.encode():
                return LockHolder.ANOTHER
            self._redis.pexpire(keys.SWEEPER, ttl_ms)
            return LockHolder.STILL_OURS
