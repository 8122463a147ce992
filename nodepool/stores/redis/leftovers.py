"""What nodes that left may have left in Redis: their keys, their queues, their broker users. Found slowly.

Which nodes are there is for SQL to say.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from nodepool.messaging import names
from nodepool.stores.redis import broker_users, keys
from nodepool.stores.redis.client import Client, translated_errors

_SCANNED_AT_ONCE = 500
_REPLIES = "reply.celery.pidbox"
# Who asked over remote control reads the answers at once, or has ended.
_REPLIES_IDLE_SECONDS = 86400


class Leftovers:
    """Raises UnavailableError."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._cursor = 0

    def scan(self) -> dict[str, list[str]]:
        """A part of all keys: those that belong to a node, by its id. The next call goes on."""
        with translated_errors():
            self._cursor, found = cast(
                "tuple[int, list[bytes]]", self._redis.scan(self._cursor, count=_SCANNED_AT_ONCE)
            )
            named = [key.decode(errors="replace") for key in found]
            self._drop_replies([key for key in named if key.endswith(_REPLIES) and "binding" not in key])
        of_node: dict[str, list[str]] = {}
        for key in named:
            if node_id := _node_of(key):
                of_node.setdefault(node_id, []).append(key)
        return of_node

    def delete(self, names_of_keys: Sequence[str]) -> None:
        if names_of_keys:
            with translated_errors():
                self._redis.delete(*names_of_keys)

    def users(self) -> list[str]:
        """Of agents of this database."""
        with translated_errors():
            answer = self._redis.acl_users()
        found = [name.decode() if isinstance(name, bytes) else str(name) for name in answer]
        return sorted(broker_users.of_this_database(self._redis, found))

    def delete_users(self, users: Collection[str]) -> None:
        """Their connections are cut."""
        if users:
            with translated_errors():
                self._redis.acl_deluser(*sorted(users))

    def _drop_replies(self, queues: Sequence[str]) -> None:
        """Answers to whoever has ended before they came."""
        for queue in queues:
            idle = self._redis.object("idletime", queue)
            if idle is not None and int(idle) > _REPLIES_IDLE_SECONDS:
                self._redis.delete(queue)


def _node_of(key: str) -> str:
    if key.startswith("node:") and key.count(":") == 2:
        node_id = key.split(":")[1]
        return node_id if key in _names_of(node_id) else ""
    queue = names.node_queue("")
    return key.removeprefix(queue) if key.startswith(queue) else ""


def _names_of(node_id: str) -> tuple[str, ...]:
    return tuple(
        name(node_id) for name in (keys.facts, keys.report, keys.reserved, keys.assigned, keys.instance)
    )
