"""Each agent's own broker user: it may use its own queue, report, assignments and events,
read the pool's pace, and nothing else.

A server's users are not part of its data: a replica that becomes the master has none, or those of long ago.
So what they were made with is kept in the data, too, which replicas have, and put back.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection
from urllib.parse import quote, urlsplit, urlunsplit

import redis

from nodepool.domain import ids
from nodepool.messaging import names
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import database_of, translated_errors

_PASSWORD_BYTES = 24
log = logging.getLogger(__name__)

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
        f"(~{keys.report(node_id)} +set +expire)",
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
        digest = hashlib.sha256(password.encode()).hexdigest()
        _acl(client, "DELUSER", user)
        _acl(client, "SETUSER", user, "reset", "on", f"#{digest}", *rules(node_id, database, known(client)))
        _save(client)
        # In a full server it is not kept: the agent enrols again where its user is missing.
        with contextlib.suppress(redis.exceptions.OutOfMemoryError):
            client.hset(keys.AGENT_USERS, node_id, f"{digest} {database}")
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, f"{quote(user)}:{quote(password)}@{host}", parts.path, parts.query, ""))


def known(client: redis.Redis) -> frozenset[str]:
    """The server's commands of connections, with their subcommands. Raises redis.ResponseError."""
    names = client.acl_cat("connection")
    return frozenset(name.decode() if isinstance(name, bytes) else name for name in names)


def delete(client: redis.Redis, node_id: str) -> None:
    """Delete the user; the server cuts its connections."""
    with translated_errors():
        client.hdel(keys.AGENT_USERS, node_id)
        _acl(client, "DELUSER", ids.broker_user(node_id))
        _save(client)


def put_back(client: redis.Redis, active: Callable[[], Collection[str]]) -> int:
    """For a server that was not the broker before: the users of active nodes as they were, and no others.

    Returns how many. Whose user cannot be put back enrols again. Raises UnavailableError.
    """
    with translated_errors():
        listed = {_text(name) for name in client.acl_users()}
        # Asked after it: whoever enrols meanwhile is not taken for one that left.
        nodes = active()
        made_with = {_text(node): _text(words) for node, words in client.hgetall(keys.AGENT_USERS).items()}
        commands = known(client)
        ours = [node_id for node_id in nodes if node_id in made_with]
        with client.pipeline(transaction=False) as pipe:
            for node_id in ours:
                digest, _, database = made_with[node_id].partition(" ")
                user_rules = rules(node_id, int(database), commands)
                pipe.execute_command(  # type: ignore[no-untyped-call]
                    "ACL", "SETUSER", ids.broker_user(node_id), "reset", "on", f"#{digest}", *user_rules
                )
            wanted = {ids.broker_user(node_id) for node_id in nodes}
            for user in sorted(of_this_database(client, listed - wanted)):
                pipe.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call]
            answers = pipe.execute(raise_on_error=False)
        _save(client)
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    if failed:
        log.warning("%d users of agents were not put back; the first: %s", len(failed), failed[0])
    return len(ours)


def of_this_database(client: redis.Redis, users: Collection[str]) -> set[str]:
    """Those of agents that belong to this database of the server: users are the whole server's, and another
    pool may have another of its databases."""
    agents = {user for user in users if user.startswith(ids.BROKER_USER_PREFIX)}
    if not agents:
        return agents
    with translated_errors():
        lines = [_text(line) for line in client.acl_list()]
    own = f"&/{database_of(client)}."
    elsewhere = {line.split()[1] for line in lines if "&/" in line and own not in line}
    return agents - elsewhere


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _save(client: redis.Redis) -> None:
    try:
        _acl(client, "SAVE")
    except redis.ResponseError:
        # A server without an ACL file: its agents enrol again when it has been restarted.
        return


def _acl(client: redis.Redis, *arguments: str) -> None:
    client.execute_command("ACL", *arguments)  # type: ignore[no-untyped-call]
