"""How the pool's own processes connect to Redis, and what its errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from nodepool import keepalive
from nodepool.broker_errors import tls_problem
from nodepool.domain import broker_address
from nodepool.domain.broker_address import (
    BrokerAddress,
    BrokerTrust,
    SentinelLogin,
    sentinel_options,
    tls_options,
)
from nodepool.domain.errors import BrokerFullError, BrokerUnavailableError, UnavailableError
from nodepool.settings import Settings

# What is passed around; its commands are for the stores.
Client: TypeAlias = redis.Redis
_AWAY = (redis.ConnectionError, redis.TimeoutError)
_UNTRUSTED_WORDS = "the pool does not trust its Redis: TLS fails; the pool's operator has to look at its log"
_WORDS = "the pool's Redis cannot be reached just now; try again in a moment"
_FULL = (
    "the pool's Redis is full and takes nothing new just now; what the pool can do without is being removed. "
    "Try again in a moment; if it stays so, its operator has to raise maxmemory"
)
_NO_WRITES = "the pool's Redis takes no writes just now; try again in a moment"
# What a server says that is there and does not write: its disk is full, it is a replica, it has none.
_NO_WRITES_CODES = ("MISCONF ", "READONLY ", "NOREPLICAS ", "MASTERDOWN ")


def connect(settings: Settings) -> Client:
    """A client with a bounded wait. It reconnects by itself; nothing is sent before the first command."""
    return opened(
        settings.broker,
        settings.broker_trust,
        settings.sentinel_login,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        socket_keepalive=True,
        socket_keepalive_options=keepalive.tcp_options(),
        health_check_interval=30,
    )


def opened(
    address: BrokerAddress, trust: BrokerTrust, login: SentinelLogin | None = None, **options: Any
) -> Client:
    """A client of the one server that is there, or of whichever the sentinels call the master."""
    options |= {
        "db": address.database,
        "username": address.user or None,
        "password": address.password or None,
        **tls_options(address, trust),
    }
    if not address.service:
        (host,) = address.hosts
        scheme = "rediss" if address.tls else "redis"
        return redis.Redis.from_url(f"{scheme}://{host.shown}", **options)
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        [(host.name, host.port) for host in address.hosts],
        sentinel_kwargs=sentinel_options(address, trust, login or SentinelLogin()),
        ssl=address.tls,
        **options,
    )
    client: Client = sentinel.master_for(address.service)
    return client


def database_of(client: Client) -> int:
    """The number of the database that it is connected to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


def answers(url: str, seconds: float) -> bool:
    """Whether the server answers this URL's user; False also while it loads its data."""
    # One try: who waits asks again soon, and the library's own pauses would be in the way.
    retry = Retry(NoBackoff(), 0)
    address = broker_address.parse(url, "the broker's address")
    with closing(
        opened(address, BrokerTrust(), socket_timeout=seconds, socket_connect_timeout=seconds, retry=retry)
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
    except redis.RedisError as error:
        if (told := _told(error)) is None:
            raise
        raise told from error


@contextmanager
def any_error_translated() -> Iterator[None]:
    """For what the pool does without, whatever it is that Redis does not do."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise (_told(error) or BrokerUnavailableError(_WORDS)) from error


def _told(error: Exception) -> UnavailableError | None:
    """What the pool says of it; None for what is no trouble of the server's."""
    if isinstance(error, _AWAY):
        return BrokerUnavailableError(_UNTRUSTED_WORDS if tls_problem(error) else _WORDS)
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return BrokerFullError(_FULL)
    words = str(error)  # of a pipeline they have more before them
    if isinstance(error, redis.exceptions.ReadOnlyError) or any(code in words for code in _NO_WRITES_CODES):
        return BrokerUnavailableError(_NO_WRITES)
    return None
