"""Live output of attempts: a bounded window of each in Redis, addressed by byte offset, and a bound on all.

Output is what gives way when the broker's memory is short: it is in the result as well. It knows nothing of
tasks' states; who ends an attempt says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import redis

from nodepool.domain.errors import UnavailableError
from nodepool.domain.ids import shown_task
from nodepool.stores.redis import keys, output_scripts as lua
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.scripts import EVEN_WHEN_FULL

log = logging.getLogger(__name__)
_OTHERS_FIRST = -1
# Windows that are looked at when room is made, and those that are forgotten at once.
_LARGEST, _AT_ONCE = 256, 1000
_MOST_DROPPED = 10_000
# What those who have more than their share are left of it: room is not made again for each byte.
_LEFT_OF_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class OutputWindow:
    """The bytes that are kept, and the offset of the first of them."""

    base: int
    data: bytes

    @property
    def end(self) -> int:
        return self.base + len(self.data)


class OutputStore:
    """Thread-safe. `room_bytes` is what all windows together may have; whoever watches the broker's memory
    sets it."""

    def __init__(self, client: redis.Redis, window_bytes: int, room_bytes: int = 1 << 40) -> None:
        self._redis = client
        self._window_bytes = window_bytes
        self.room_bytes = room_bytes
        # Of attempts whose output was dropped lately: how much.
        self._dropped: dict[str, int] = {}
        self._append = client.register_script(lua.APPEND_OUTPUT)
        self._cut = client.register_script(EVEN_WHEN_FULL + lua.CUT_OUTPUT)
        self._end = client.register_script(EVEN_WHEN_FULL + lua.END_OUTPUT)
        self._due = client.register_script(lua.DUE_OUTPUTS)
        self._forget = client.register_script(EVEN_WHEN_FULL + lua.FORGET_OUTPUT)
        self._count = client.register_script(EVEN_WHEN_FULL + lua.COUNT_OUTPUT)

    # -- one attempt ---------------------------------------------------------------------------------
    def append(self, attempt_id: str, offset: int, data: bytes, *, task_id: str = "") -> int:
        """Add what is new in `data`; returns the offset after it.

        Who watches the task, where that is named, is told of it at once. Where all windows together have no
        room for it the oldest is dropped, of this one and of others that have more than their share. Raises
        BrokerFullError.
        """
        end = self._try_append(attempt_id, offset, data, task_id, last=False)
        if end == _OTHERS_FIRST:
            self.make_room(len(data) + lua.OVERHEAD_BYTES)
            end = self._try_append(attempt_id, offset, data, task_id, last=True)
        return end

    def _try_append(self, attempt_id: str, offset: int, data: bytes, task_id: str, *, last: bool) -> int:
        arguments = (
            offset, data, self._window_bytes, keys.OUTPUT_TTL_SECONDS, keys.EVENTS_CHANNEL,
            shown_task(task_id), attempt_id, self.room_bytes, lua.OVERHEAD_BYTES, int(last),
        )  # fmt: skip
        with translated_errors():
            return cast(int, self._append(keys=_keys(attempt_id), args=arguments))

    def append_at_end(self, attempt_id: str, data: bytes, *, task_id: str = "") -> None:
        """Of who knows no offsets and sends nothing twice, such as workers without an agent. What the broker
        does not take is dropped, and the output says so where it goes on."""
        dropped = self._dropped.pop(attempt_id, 0)
        said = f"[{dropped} bytes of output were dropped here: the broker took none]\n" if dropped else ""
        try:
            self.append(attempt_id, -1, said.encode() + data, task_id=task_id)
        except UnavailableError as error:
            log.warning("output of %s is dropped: %s", attempt_id, error)
            if len(self._dropped) < _MOST_DROPPED:
                self._dropped[attempt_id] = dropped + len(data)

    def window(self, attempt_id: str) -> OutputWindow:
        with translated_errors():
            base, data = cast(
                "list[bytes | None]", self._redis.hmget(keys.output(attempt_id), ["base", "data"])
            )
        return OutputWindow(int(base or 0), data or b"")

    def end(self, attempt_id: str) -> bool:
        """The attempt has ended: its window stays half a minute, for those who watch. False: it has none."""
        names = [keys.output(attempt_id), keys.OUTPUT_ENDED, keys.word(attempt_id), keys.work(attempt_id)]
        with translated_errors():
            return bool(self._end(keys=names, args=[attempt_id, keys.ENDED_OUTPUT_SECONDS]))

    def forget(self, *attempt_ids: str) -> None:
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for attempt_id in attempt_ids:
                self._forget(keys=_keys(attempt_id), args=[attempt_id], client=pipe)
            pipe.execute()

    def announce(self, task_id: str) -> None:
        """Tell watchers that the task changed. A hint: who misses it looks again soon."""
        with translated_errors():
            self._redis.publish(keys.EVENTS_CHANNEL, shown_task(task_id))

    # -- all of them ---------------------------------------------------------------------------------
    def total_bytes(self) -> int:
        """What all windows have together, with what the server keeps around them."""
        with translated_errors():
            return int(cast("bytes | None", self._redis.get(keys.OUTPUT_TOTAL)) or 0)

    def running(self) -> set[str]:
        """Attempts with output of which nobody has said that they ended."""
        with translated_errors():
            names = cast("list[bytes]", self._redis.zdiff([keys.OUTPUT_SIZES, keys.OUTPUT_ENDED]))
        return {name.decode() for name in names}

    def forget_due(self) -> None:
        """What has stayed long enough after its end."""
        with translated_errors():
            due = cast("list[bytes]", self._due(keys=[keys.OUTPUT_ENDED], args=[_AT_ONCE]))
        if due:
            self.forget(*(name.decode() for name in due))

    def make_room(self, for_bytes: int = 0) -> None:
        """Until all windows fit into `room_bytes`, with so many more: those of ended attempts go, then
        whoever has more than its share of the room keeps the newest of it."""
        room = self.room_bytes
        with translated_errors():
            ended = cast("list[bytes]", self._redis.zrange(keys.OUTPUT_ENDED, 0, _AT_ONCE))
        self.forget(*(name.decode() for name in ended))
        if self.total_bytes() + for_bytes <= room:
            return
        with translated_errors():
            windows = self._redis.zcard(keys.OUTPUT_SIZES)
            largest = cast(
                "list[tuple[bytes, float]]",
                self._redis.zrange(keys.OUTPUT_SIZES, 0, _LARGEST, desc=True, withscores=True),
            )
        share = math.floor(room / (windows + 1) * _LEFT_OF_SHARE)
        self._cut_to(max(0, share - lua.OVERHEAD_BYTES), [name for name, size in largest if size > share])

    def _cut_to(self, most_bytes: int, attempts: Iterable[bytes]) -> None:
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for name in attempts:
                attempt_id = name.decode()
                arguments = (attempt_id, most_bytes, lua.OVERHEAD_BYTES)
                self._cut(keys=_keys(attempt_id)[:3], args=arguments, client=pipe)
            pipe.execute()

    def count_uncounted(self) -> None:
        """Windows of a version of the pool that counted none; once is enough."""
        pattern = keys.output("*")
        start, end = pattern.split("*")
        with translated_errors(), self._redis.pipeline(transaction=False) as pipe:
            for name in self._redis.scan_iter(match=pattern, count=_AT_ONCE):
                attempt_id = name.decode().removeprefix(start).removesuffix(end)
                arguments = (attempt_id, lua.OVERHEAD_BYTES, keys.OUTPUT_TTL_SECONDS)
                self._count(keys=_keys(attempt_id)[:3], args=arguments, client=pipe)
            pipe.execute()


def _keys(attempt_id: str) -> list[str]:
    return [keys.output(attempt_id), keys.OUTPUT_SIZES, keys.OUTPUT_TOTAL, keys.OUTPUT_ENDED]
