"""Counters that all gateways share: attempts of a minute, and what was used of which bound.

What is counted and how many are too many is decided elsewhere. Nothing here must be there: without Redis each
gateway goes on by itself, so every error of Redis is UnavailableError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from nodepool.stores.redis import scripts
from nodepool.stores.redis.client import Client, any_error_translated


class RateCounters:
    """Thread-safe. Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._count = client.register_script(scripts.COUNT_IN_WINDOWS)
        self._give_back = client.register_script(scripts.GIVE_BACK)
        self._add = client.register_script(scripts.ADD_TO_COUNTERS)

    def count(self, keys: Sequence[str], *, most: int, window_seconds: int) -> int:
        """One more of each, and 0; or none, and after how many seconds the fullest one begins anew."""
        with any_error_translated():
            return int(cast(int, self._count(keys=list(keys), args=[window_seconds, most])))

    def give_back(self, keys: Sequence[str]) -> None:
        with any_error_translated():
            self._give_back(keys=list(keys))

    def add(self, keys: Sequence[str], amounts: Sequence[int], *, kept_seconds: int) -> list[int]:
        """The sums of all gateways, after these amounts were added."""
        with any_error_translated():
            sums = cast("list[int]", self._add(keys=list(keys), args=[*amounts, kept_seconds]))
        return [int(total) for total in sums]
