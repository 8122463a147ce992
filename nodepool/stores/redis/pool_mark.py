"""Whose broker this is, as the broker knows it: the pool's id in a key, and nodes of a time before that.

Whoever loses all keys loses the mark too, and is marked again by the next pool that asks.
"""

from __future__ import annotations

from typing import cast

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client, any_error_translated
from nodepool.stores.redis.even_when_full import EvenWhenFull

# Of the nodes there, some are enough to tell whose they are.
_NODES_ASKED = 100


class PoolMark:
    """Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)

    def read(self) -> str:
        """Empty where there is none."""
        with any_error_translated():
            return _text(self._redis.get(keys.POOL_ID) or "")

    def some_nodes(self) -> list[str]:
        with any_error_translated():
            found = cast("list[bytes | str]", self._redis.srandmember(keys.NODES, _NODES_ASKED))
            return [_text(name) for name in found]

    def claim(self, pool_id: str) -> str:
        """The mark that is there afterwards: of two pools that mark one broker at once, one has it."""
        with any_error_translated():
            self._always("SET", keys.POOL_ID, pool_id, "NX")
        return self.read()

    def gateway_left_ms(self) -> int:
        """What is left of the sign that a gateway serves here, which it renews every second; 0: no sign."""
        with any_error_translated():
            return max(0, int(self._redis.pttl(keys.GATEWAY)))

    def take(self, pool_id: str) -> None:
        """Whoever's it was."""
        with any_error_translated():
            self._always("SET", keys.POOL_ID, pool_id)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
