"""What the broker says of itself, asked at the start: version, rights, memory, what it keeps.

Whether that will do is decided in nodepool/domain/broker_fitness.py.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import redis

from nodepool.domain import broker_fitness
from nodepool.domain.broker_fitness import BrokerFacts, BrokerUse
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.loopback import is_loopback_host
from nodepool.settings import Settings
from nodepool.stores.redis import broker_users, keys, scripts
from nodepool.stores.redis.client import Client, is_away, translated_errors

log = logging.getLogger(__name__)
_NOT_LET_IN = (
    "the broker does not let the pool in ({}): REDIS_URL must name a user that may do everything, "
    "with its password"
)
_PROBE = "fitness/probe"
# One of each kind that the pool and its Celery use; the server is asked whether they may be run.
_NEEDED = (
    ("SET", keys.GATEWAY, "1"),
    ("HSET", keys.facts(_PROBE), "a", "1"),
    ("ZADD", keys.OUTPUT_SIZES, "1", "a"),
    ("SADD", keys.NODES, "a"),
    ("SCAN", "0"),
    ("LPUSH", "low.any", "a"),
    ("BRPOP", "low.any", "1"),
    ("PUBLISH", keys.EVENTS_CHANNEL, "a"),
    ("SUBSCRIBE", keys.EVENTS_CHANNEL),
    ("PSUBSCRIBE", "/0.celery.pidbox"),
    ("EVALSHA", "0", "1", keys.GATEWAY),
    ("SCRIPT", "LOAD", "return 1"),
    ("MULTI",),
    ("INFO",),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "ID", "1"),
    ("ACL", "SETUSER", "a"),
    ("ACL", "DELUSER", "a"),
    ("ACL", "SAVE"),
)


class UnfitBrokerError(NodePoolError):
    """The server cannot be the pool's broker."""


def check(client: Client, settings: Settings) -> bool:
    """Raises UnfitBrokerError with every reason; what an operator should know besides is logged.

    False for a server that cannot be reached: it may be starting.
    """
    use = BrokerUse(is_local=is_local(settings), pushes_to_nodes=settings.push_to_nodes)
    try:
        facts = ask(client)
    except UnavailableError as error:
        if isinstance(error.__cause__, redis.AuthenticationError):
            raise UnfitBrokerError(_NOT_LET_IN.format(error.__cause__)) from error
        log.warning("the broker cannot be looked at yet: %s", error)
        return False
    except redis.ResponseError as error:
        raise UnfitBrokerError(_NOT_LET_IN.format(error)) from error
    if found := broker_fitness.faults(facts, use):
        raise UnfitBrokerError(f"the broker ({facts.name}) cannot be used: {'; '.join(found)}")
    for warning in broker_fitness.warnings(facts, use):
        log.warning("the broker (%s): %s", facts.name, warning)
    return True


def ask(client: Client) -> BrokerFacts:
    """Raises UnavailableError, and redis.ResponseError where it does not let the pool in."""
    with translated_errors():
        info = cast("Mapping[str, Any]", client.info())
        if _version(info) < broker_fitness.LEAST_VERSION:
            return BrokerFacts(name=_name(info), version=_version(info))
        user, trouble = _rights(client)
        return BrokerFacts(
            name=_name(info),
            version=_version(info),
            is_cluster=bool(info.get("cluster_enabled")),
            is_replica=info.get("role") == "slave",
            user=user,
            acl_trouble=trouble,
            missing_commands=_missing(client, user) if not trouble else (),
            is_open=not trouble and _is_open(client),
            eviction_policy=str(info.get("maxmemory_policy", "noeviction")),
            max_memory_bytes=int(info.get("maxmemory", 0)),
            max_value_bytes=_number(_configured(client, "proto-max-bulk-len")),
            is_persistent=bool(info.get("aof_enabled")) or _configured(client, "save") != "",
            keeps_users=None if (file := _configured(client, "aclfile")) is None else bool(file),
        )


def _version(info: Mapping[str, Any]) -> tuple[int, ...]:
    numbers = str(info.get("redis_version", "0")).split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def _name(info: Mapping[str, Any]) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of no version')}"


def _rights(client: Client) -> tuple[str, str]:
    """The pool's own user, and why it can make none for agents: tried with one that nobody can log in as."""
    user = "default"
    name = f"fitness-{secrets.token_hex(4)}"
    try:
        user = _text(client.acl_whoami())
        rules = broker_users.rules(_PROBE, 0, broker_users.known(client))
        client.execute_command("ACL", "SETUSER", name, "reset", "off", *rules)  # type: ignore[no-untyped-call]
        client.acl_deluser(name)
        client.eval(f"{scripts.EVEN_WHEN_FULL}return 1", 0)
    except redis.ResponseError as error:
        if is_away(error):
            raise
        return user, str(error)
    return user, ""


def _missing(client: Client, user: str) -> tuple[str, ...]:
    missing = []
    for command in _NEEDED:
        with suppress(redis.ResponseError):  # a server that does not tell
            answer = client.execute_command("ACL", "DRYRUN", user, *command)  # type: ignore[no-untyped-call]
            if _text(answer) != "OK":
                missing.append(" ".join(command[:2]) if command[0] in ("ACL", "CLIENT") else command[0])
    return tuple(missing)


def _is_open(client: Client) -> bool:
    """Whether everybody is the default user, and that one may do everything."""
    with suppress(redis.ResponseError):
        default = cast("Mapping[str, Any] | None", client.acl_getuser("default"))
        if not default:
            return False
        words = {_text(word) for word in (*default["flags"], *default["commands"], *default["categories"])}
        return {"on", "nopass", "+@all"} <= words
    return False


def _configured(client: Client, name: str) -> str | None:
    """None where the server does not tell, as hosted ones do."""
    with suppress(redis.ResponseError):
        found = cast("Mapping[Any, Any]", client.config_get(name))
        for key, value in found.items():
            if _text(key) == name:
                return _text(value)
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def is_local(settings: Settings) -> bool:
    """Whether agents reach the broker on this machine only."""
    host = urlsplit(settings.agent_redis_url or settings.effective_redis_url).hostname or ""
    return is_loopback_host(host)
