"""How the broker is: memory and clients beside their limits, and how long its queues are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from nodepool.stores.redis.client import Client, translated_errors


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """As INFO says. A limit of 0: it has none."""

    version: str
    memory_used_bytes: int
    memory_limit_bytes: int
    memory_policy: str
    clients: int
    clients_limit: int
    evicted_keys: int
    rejected_connections: int
    keeps_data: bool  # appends to a file, or saves snapshots that work
    role: str

    @classmethod
    def of(cls, info: dict[str, Any]) -> BrokerStatus:
        def number(name: str) -> int:
            return int(info.get(name, 0))

        return cls(
            version=str(info.get("valkey_version") or info.get("redis_version", "")),
            memory_used_bytes=number("used_memory"),
            memory_limit_bytes=number("maxmemory"),
            memory_policy=str(info.get("maxmemory_policy", "")),
            clients=number("connected_clients"),
            clients_limit=number("maxclients"),
            evicted_keys=number("evicted_keys"),
            rejected_connections=number("rejected_connections"),
            keeps_data=bool(number("aof_enabled")),
            role=str(info.get("role", "")),
        )


def broker_status(client: Client) -> BrokerStatus:
    """Raises UnavailableError."""
    with translated_errors():
        return BrokerStatus.of(client.info())


def server_time(client: Client) -> float:
    """Unix seconds, by the broker's clock. Raises UnavailableError."""
    with translated_errors():
        seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def queue_lengths(client: Client, queues: Sequence[str]) -> dict[str, int]:
    """Messages in each. Raises UnavailableError."""
    with translated_errors(), client.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(queue)
        lengths = cast("list[int]", pipe.execute())
    return dict(zip(queues, lengths, strict=True))
