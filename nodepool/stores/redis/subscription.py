"""What is said on channels, heard on a connection of its own. What is said while nobody listens is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nodepool.stores.redis.client import Client, any_error_translated


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """`begins`: nothing was said, but from now on this channel is heard."""

    channel: bytes
    data: bytes
    begins: bool = False


class Subscription:
    """For one thread. Raises UnavailableError, after which a new one is needed."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel  # redis-py's stubs do not type pubsub

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
        if message is None or message["type"] not in ("subscribe", "message"):
            return None
        begins = message["type"] == "subscribe"
        return ChannelMessage(message["channel"], b"" if begins else message["data"], begins)


@contextmanager
def subscription(client: Client, *channels: str) -> Iterator[Subscription]:
    """Raises UnavailableError."""
    with any_error_translated(), client.pubsub() as channel:  # type: ignore[no-untyped-call]
        heard = Subscription(channel)
        if channels:
            heard.subscribe(*channels)
        yield heard
