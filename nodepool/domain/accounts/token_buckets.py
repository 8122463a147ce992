"""Token buckets: how much of something each of many may do in a minute. Pure; clocks are passed in.

A bucket holds a minute's worth and fills evenly. It must not know what is counted, nor where else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

_SECONDS_PER_MINUTE = 60.0


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """Not thread-safe. Of more keys than `most_keys` the ones that were used longest ago begin anew."""

    def __init__(self, most_keys: int) -> None:
        self._most_keys = most_keys
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def take(self, key: Hashable, per_minute: float, now: float, cost: float = 1.0) -> float:
        """0 where it may be done, and was counted; else after how many seconds it may be."""
        bucket = self._filled(key, per_minute, now)
        if bucket.left < cost:
            return (cost - bucket.left) * _SECONDS_PER_MINUTE / per_minute
        bucket.left -= cost
        return 0.0

    def charge(self, key: Hashable, per_minute: float, now: float, cost: float) -> None:
        """What was done already. At worst a minute's worth is owed."""
        bucket = self._filled(key, per_minute, now)
        bucket.left = max(-per_minute, bucket.left - cost)

    def _filled(self, key: Hashable, per_minute: float, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most_keys:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(per_minute, now)
            return bucket
        self._buckets.move_to_end(key)
        grown = max(0.0, now - bucket.at) * per_minute / _SECONDS_PER_MINUTE
        bucket.left, bucket.at = min(per_minute, bucket.left + grown), now
        return bucket
