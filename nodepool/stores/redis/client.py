"""How the pool's own processes connect to Redis, and what its errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nodepool import keepalive
from nodepool.domain.errors import UnavailableError
from nodepool.settings import Settings

# What is passed around; its commands are for the stores.
Client: TypeAlias = redis.Redis
_AWAY = (redis.ConnectionError, redis.TimeoutError)
_WORDS = "the pool's Redis cannot be reached just now; try again in a moment"


def connect(settings: Settings) -> Client:
    """A client with a bounded wait. It reconnects by itself; nothing is sent before the first command."""
    return redis.Redis.from_url(
        settings.effective_redis_url,
        decode_responses=False,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        socket_keepalive=True,
        socket_keepalive_options=keepalive.tcp_options(),
        health_check_interval=30,
    )


def database_of(client: Client) -> int:
    """The number of the database that it is connected to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def answers(url: str, seconds: float) -> bool:
    """Whether the server answers this URL's user; False also while it loads its data."""
    # One try: who waits asks again soon, and the library's own pauses would be in the way.
    retry = Retry(NoBackoff(), 0)
    with closing(
        redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)
    ) as client:
        try:
            return bool(client.ping())
        except _AWAY:
            return False


def is_away(error: Exception) -> bool:
    """Whether a library's error that no store has translated says that Redis cannot be reached."""
    return isinstance(error, _AWAY)


@contextmanager
def translated_errors() -> Iterator[None]:
    try:
        yield
    except (*_AWAY, redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError) as error:
        raise UnavailableError(_WORDS) from error


@contextmanager
def any_error_translated() -> Iterator[None]:
    """For what the pool does without, whatever it is that Redis does not do."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise UnavailableError(_WORDS) from error
