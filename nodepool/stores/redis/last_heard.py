"""When something was last heard of an attempt on a node without an agent: from its worker or about it."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull


class LastHeard:
    """Thread-safe. Raises UnavailableError when Redis cannot be reached."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._always = EvenWhenFull(client)

    def heard(self, attempt_ids: Sequence[str]) -> None:
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for attempt_id in attempt_ids:
                self._always("SET", keys.word(attempt_id), 1, "EX", keys.WORD_TTL_SECONDS, client=pipe)
            pipe.execute()

    def works(self, attempt_id: str) -> None:
        """Its worker says that the run goes on."""
        with translated_errors():
            self._always("SET", keys.work(attempt_id), 1, "EX", keys.WORK_TTL_SECONDS)

    def showed_work(self, attempt_id: str) -> bool:
        with translated_errors():
            return bool(self._redis.exists(keys.work(attempt_id)))

    def ages(self, attempt_ids: Sequence[str]) -> dict[str, float]:
        """Seconds since the last word of each, by the pool's own clock; infinite without one."""
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for attempt_id in attempt_ids:
                pipe.pttl(keys.word(attempt_id))
            answers = pipe.execute()
        return {
            attempt_id: keys.WORD_TTL_SECONDS - pttl / 1000 if pttl >= 0 else float("inf")
            for attempt_id, pttl in zip(attempt_ids, answers, strict=True)
        }
