"""Which tasks found no node, and whether somebody is about to try them again."""

from __future__ import annotations

from typing import cast

import redis

from nodepool.stores import keys
from nodepool.stores.redis_client import translated_errors


class WaitingTasks:
    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def add(self, task_id: str) -> None:
        with translated_errors():
            self._redis.sadd(keys.WAITING, task_id)

    def remove(self, *task_ids: str) -> None:
        if task_ids:
            with translated_errors():
                self._redis.srem(keys.WAITING, *task_ids)

    def replace(self, task_ids: set[str]) -> None:
        """Set to what SQL says."""
        with translated_errors():
            present = {member.decode() for member in cast("set[bytes]", self._redis.smembers(keys.WAITING))}
        self.remove(*(present - task_ids))

    def hints(self, queue: str) -> int:
        """How many messages wait in a queue of the dispatchers'."""
        with translated_errors():
            return self._redis.llen(queue)

    def ask_to_wake(self) -> bool:
        """True when there are waiting tasks and nobody else has asked for them lately."""
        with translated_errors():
            if not self._redis.exists(keys.WAITING):
                return False
            return bool(self._redis.set(keys.WAKE, 1, nx=True, ex=keys.WAKE_TTL_SECONDS))

    def waking(self) -> None:
        """Called before the waiting tasks are looked at: capacity that comes free now asks again."""
        with translated_errors():
            self._redis.delete(keys.WAKE)
