"""The time that all parts of the pool agree on: the broker's clock, and how the pool's differs from it.

How it is used is decided in nodepool/clock.py.
"""

from __future__ import annotations

from typing import Any, cast

import redis

from nodepool.clock import SharedTime
from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors

_MICROSECONDS = 1e6
# KEYS: the record. ARGV: what it was, empty for nothing; what it is to be.
_CORRECT = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class BrokerTime:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._correct = client.register_script(_CORRECT)
        self._text = ""  # of the record as it was read, so that it is compared as it is

    def read(self) -> SharedTime:
        with translated_errors(), self._redis.pipeline(transaction=True) as pipe:
            cast(Any, pipe).time()
            pipe.get(keys.POOL_TIME)
            try:
                (seconds, micros), text = pipe.execute()
            except redis.ResponseError as error:
                # One that is not fit for a pool: whoever starts says so in words.
                raise UnavailableError from error
        self._text = text.decode() if text else ""
        return SharedTime(seconds + micros / _MICROSECONDS, float(self._text) if self._text else None)

    def correct(self, skew: float) -> None:
        with translated_errors():
            self._correct(keys=[keys.POOL_TIME], args=[self._text, repr(skew)])
