"""How the pool's own processes connect to Redis, and what its errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from nodepool.domain.errors import UnavailableError
from nodepool.settings import Settings


def connect(settings: Settings) -> redis.Redis:
    """A client with a bounded wait. It reconnects by itself; nothing is sent before the first command."""
    return redis.Redis.from_url(
        settings.effective_redis_url,
        decode_responses=False,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        health_check_interval=30,
    )


@contextmanager
def translated_errors() -> Iterator[None]:
    try:
        yield
    except (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.exceptions.ReadOnlyError,
        redis.exceptions.OutOfMemoryError,
    ) as error:
        raise UnavailableError(
            "the pool's Redis cannot be reached just now; try again in a moment"
        ) from error
