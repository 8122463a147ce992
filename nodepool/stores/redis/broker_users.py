"""Each agent's own broker user: it may use its own queue, report, assignments and events,
read the pool's pace, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from nodepool.domain import ids
from nodepool.messaging import names
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors

_PASSWORD_BYTES = 24


# What an agent's library says when it connects, and does without where the server knows no such command:
# Redis before 7.2 has no SETINFO.
_GREETINGS = ("client|setinfo",)


def rules(node_id: str, database: int, known: Collection[str]) -> list[str]:
    """The ACL of a node's user, as ACL SETUSER takes it. Selectors keep each key to its commands.

    `known` are the server's commands of connections: a rule about one that it does not know would be refused.
    """
    return [
        "resetkeys",
        "resetchannels",
        "-@all",
        "+ping",
        "+select",
        *(f"+{command}" for command in _GREETINGS if command in known),
        f"(~{names.node_queue(node_id)} +brpop)",
        f"(~{keys.report(node_id)} +set)",
        f"(%R~{keys.assigned(node_id)} +hgetall)",
        f"(%R~{keys.PACE} +get)",
        # Each by its whole name: with a pattern, node `a` could speak as node `a/b`.
        f"({' '.join(f'&{name}' for name in names.event_channels(node_id, database))} +publish)",
    ]


def create(client: redis.Redis, node_id: str, *, base_url: str) -> str:
    """Make the node's user anew with a new password; returns the URL to connect with.

    Whoever was connected as this user is cut off: another start of the agent, or nobody.
    """
    user, password = ids.broker_user(node_id), secrets.token_urlsafe(_PASSWORD_BYTES)
    parts = urlsplit(base_url)
    database = int(parts.path.strip("/") or 0)
    with translated_errors():
        _acl(client, "DELUSER", user)
        _acl(client, "SETUSER", user, "reset", "on", f">{password}", *rules(node_id, database, known(client)))
        _save(client)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, f"{quote(user)}:{quote(password)}@{host}", parts.path, parts.query, ""))


def known(client: redis.Redis) -> frozenset[str]:
    """The server's commands of connections, with their subcommands. Raises redis.ResponseError."""
    names = client.acl_cat("connection")
    return frozenset(name.decode() if isinstance(name, bytes) else name for name in names)


def delete(client: redis.Redis, node_id: str) -> None:
    """Delete the user; the server cuts its connections."""
    with translated_errors():
        _acl(client, "DELUSER", ids.broker_user(node_id))
        _save(client)


def _save(client: redis.Redis) -> None:
    try:
        _acl(client, "SAVE")
    except redis.ResponseError:
        # A server without an ACL file: its agents enrol again when it has been restarted.
        return


def _acl(client: redis.Redis, *arguments: str) -> None:
    client.execute_command("ACL", *arguments)  # type: ignore[no-untyped-call]
