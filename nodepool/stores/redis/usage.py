"""Who was served how much lately, in Redis: shared by all dispatchers, and no loss when it is gone.

The rules are in `nodepool/domain/scheduling/fair_share.py`. One hash holds an era's sums by user.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import redis

from nodepool.domain.scheduling.fair_share import Decay
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull

# Longer than any half-life is worth remembering, shorter than for ever.
_TTL_HALF_LIVES = 50


class UsageStore:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis, decay: Decay) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)
        self.decay = decay

    def add(self, units: Mapping[int, float], now: float) -> None:
        """Units of use by user; negative gives back what was charged too much."""
        if not units:
            return
        key, weight = keys.usage(self.decay.era(now)), self.decay.weight(now)
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for user_id, amount in units.items():
                self._always("HINCRBYFLOAT", key, str(user_id), amount * weight, client=pipe)
            pipe.expire(key, int(_TTL_HALF_LIVES * self.decay.half_life_seconds) + 1)
            pipe.execute()

    def of(self, user_ids: Collection[int], now: float) -> dict[int, float]:
        """What each has used, in units as of now."""
        ids = list(user_ids)
        if not ids:
            return {}
        with translated_errors():
            sums = cast(
                "list[bytes | None]",
                self._redis.hmget(keys.usage(self.decay.era(now)), [str(i) for i in ids]),
            )
        weight = self.decay.weight(now)
        return {
            user_id: max(0.0, float(text or 0.0)) / weight for user_id, text in zip(ids, sums, strict=True)
        }
