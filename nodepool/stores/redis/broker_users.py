"""Each agent's own broker user: it may use its own queue, report, assignments and events,
read the pool's pace, and nothing else.
"""

from __future__ import annotations

import secrets
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from nodepool.domain import ids
from nodepool.messaging import names
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import translated_errors

_PASSWORD_BYTES = 24


def rules(node_id: str, database: int) -> list[str]:
    """The ACL of a node's user, as ACL SETUSER takes it. Selectors keep each key to its commands."""
    return [
        "resetkeys",
        "resetchannels",
        "-@all",
        "+ping",
        "+select",
        "+client|setinfo",
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
        _acl(client, "SETUSER", user, "reset", "on", f">{password}", *rules(node_id, database))
        _save(client)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, f"{quote(user)}:{quote(password)}@{host}", parts.path, parts.query, ""))


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
