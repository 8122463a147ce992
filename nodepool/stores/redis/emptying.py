"""The pool's keys leave Redis: after a restore they say what is not so. All of it can be built again.

Only what is the pool's goes, since others may share the database. Users of agents stay.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, any_error_translated

_PATTERNS = (*keys.PERSISTENT_PATTERNS, "node:*", "pool:*", "attempt:*", "outputs:*", "rate:*")
_AT_ONCE = 500


def empty(client: Client) -> int:
    """How many keys there were. Raises UnavailableError."""
    removed, batch = 0, []
    with any_error_translated():
        for key in client.scan_iter(count=_AT_ONCE):
            if any(fnmatchcase(key.decode(errors="replace"), pattern) for pattern in _PATTERNS):
                batch.append(key)
            if len(batch) >= _AT_ONCE:
                removed += client.unlink(*batch)
                batch = []
        return removed + (client.unlink(*batch) if batch else 0)
