"""Which start of an agent has a node: the last one. Redis may forget it; then whoever asks first has it."""

from __future__ import annotations

from typing import cast

import redis

from nodepool.domain.errors import StateConflictError
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors
from nodepool.stores.redis.even_when_full import EvenWhenFull


def take_over(client: redis.Redis, node_id: str, instance: str) -> None:
    """From now on this start has the node. An older agent names none, and asks nobody."""
    with translated_errors():
        if instance:
            EvenWhenFull(client)("SET", keys.instance(node_id), instance)
        else:
            client.delete(keys.instance(node_id))


def check(client: redis.Redis, node_id: str, instance: str) -> None:
    """Raises ConflictError when another start has taken the node over."""
    if not instance:
        return
    with translated_errors():
        EvenWhenFull(client)("SET", keys.instance(node_id), instance, "NX")
        holder = cast("bytes | None", client.get(keys.instance(node_id)))
    if holder is not None and holder.decode() != instance:
        raise StateConflictError(
            f"another agent has been started as node {node_id!r} and has taken it over; stop one of the two, "
            "or give it a name of its own with --node"
        )
