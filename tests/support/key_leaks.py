"""Finds Redis keys that would stay for ever without anybody having decided so."""

from __future__ import annotations

import fnmatch

import redis

NO_TTL = -1
MAX_SHOWN = 20


def keys_without_a_ttl(client: redis.Redis) -> list[str]:
    """Keys with no TTL that docs/redis-keys.md does not list as lasting; at most MAX_SHOWN of them."""
    from nodepool.stores.redis.keys import PERSISTENT_PATTERNS

    found: list[str] = []
    for key in client.scan_iter(count=1000):
        if len(found) == MAX_SHOWN:
            break
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in PERSISTENT_PATTERNS):
            continue
        if client.ttl(key) == NO_TTL:
            found.append(key)
    return found
