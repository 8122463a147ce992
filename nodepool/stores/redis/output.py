"""Live output of attempts: a bounded window in Redis, addressed by byte offset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from nodepool.domain.ids import shown_task
from nodepool.stores.redis import keys, scripts
from nodepool.stores.redis.client import translated_errors


@dataclass(frozen=True, slots=True)
class OutputWindow:
    """The bytes that are kept, and the offset of the first of them."""

    base: int
    data: bytes

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class OutputStore:
    def __init__(self, client: redis.Redis, window_bytes: int) -> None:
        self._redis = client
        self._window_bytes = window_bytes
        self._append = client.register_script(scripts.APPEND_OUTPUT)

    def append(self, attempt_id: str, offset: int, data: bytes, *, task_id: str = "") -> int:
        """Add what is new in `data`; returns the offset after the last byte kept.

        Who watches the task, where that is named, is told of it at once.
        """
        with translated_errors():
            return cast(
                int,
                self._append(
                    keys=[keys.output(attempt_id)],
                    args=[
                        offset,
                        data,
                        self._window_bytes,
                        keys.OUTPUT_TTL_SECONDS,
                        keys.EVENTS_CHANNEL,
                        shown_task(task_id),
                    ],
                ),
            )

    def append_at_end(self, attempt_id: str, data: bytes, *, task_id: str = "") -> int:
        """Of who knows no offsets, such as workers without an agent."""
        return self.append(attempt_id, -1, data, task_id=task_id)

    def window(self, attempt_id: str) -> OutputWindow:
        with translated_errors():
            base, data = cast(
                "list[bytes | None]", self._redis.hmget(keys.output(attempt_id), ["base", "data"])
            )
        return OutputWindow(int(base or 0), data or b"")

    def forget(self, attempt_id: str) -> None:
        with translated_errors():
            self._redis.delete(keys.output(attempt_id))

    def announce(self, task_id: str) -> None:
        """Tell watchers that the task changed. A hint: who misses it looks again soon."""
        with translated_errors():
            self._redis.publish(keys.EVENTS_CHANNEL, shown_task(task_id))
