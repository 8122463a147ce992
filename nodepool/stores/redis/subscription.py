"""What is said on channels, heard on a connection of its own. What is said while nobody listens is lost.

A line that went dead without a word looks like one on which nothing is said, so a quiet server is asked
whether it is there. The library asks, too, but takes no notice of an answer that does not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nodepool.keepalive import PING_SECONDS, PONG_SECONDS
from nodepool.stores.redis.client import Client, any_error_translated


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """`begins`: nothing was said, but from now on this channel is heard."""

    channel: bytes
    data: bytes
    begins: bool = False


class Subscription:
    """For one thread. Raises UnavailableError, after which a new one is needed."""

    def __init__(self, channel: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel  # redis-py's stubs do not type pubsub
        self._clock = clock
        self._heard_at = clock()
        self._asked_at: float | None = None

    def subscribe(self, *channels: str | bytes) -> None:
        with any_error_translated():
            self._channel.subscribe(*channels)

    def unsubscribe(self, *channels: str | bytes) -> None:
        with any_error_translated():
            self._channel.unsubscribe(*channels)

    def next(self, timeout_seconds: float) -> ChannelMessage | None:
        """None where nothing came in time, or what came means nothing."""
        with any_error_translated():
            message = self._channel.get_message(timeout=timeout_seconds)
            if message is None:
                self._ask()
        if message is None:
            return None
        self._heard_at, self._asked_at = self._clock(), None
        if message["type"] not in ("subscribe", "message"):
            return None
        begins = message["type"] == "subscribe"
        return ChannelMessage(message["channel"], b"" if begins else message["data"], begins)

    def _ask(self) -> None:
        """Whether anybody is there, when nothing has come for a while."""
        now = self._clock()
        if self._asked_at is None:
            if now - self._heard_at >= PING_SECONDS and self._channel.subscribed:
                self._channel.ping()
                self._asked_at = now
        elif now - self._asked_at >= PONG_SECONDS:
            raise TimeoutError("no answer to a ping on a connection that nobody has ended")


@contextmanager
def subscription(client: Client, *channels: str) -> Iterator[Subscription]:
    """Raises UnavailableError."""
    with any_error_translated(), client.pubsub() as channel:  # type: ignore[no-untyped-call]
        heard = Subscription(channel)
        if channels:
            heard.subscribe(*channels)
        yield heard
