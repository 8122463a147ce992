"""Whether a server will do as the pool's broker, from what it says of itself. Pure.

The reasons are in docs/adr/0030-nobody-fills-the-broker.md. Each finding says what is wrong and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# The first with selectors in access lists, and with scripts that are run when the memory is full.
LEAST_VERSION = (7, 0)
MOST_VALUE_BYTES = 1 << 20
_NO_EVICTION = "noeviction"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFacts:
    """What a server says of itself. None: it does not tell."""

    name: str  # "Redis 7.0.15"
    version: tuple[int, ...]  # of the Redis that it is like
    is_cluster: bool = False
    is_replica: bool = False
    user: str = "default"
    acl_trouble: str = ""  # why no users for agents can be made, in the server's words
    missing_commands: tuple[str, ...] = ()  # that the pool needs and its user may not run
    is_open: bool = False  # whoever reaches it may do everything, without a password
    eviction_policy: str = _NO_EVICTION
    max_memory_bytes: int = 0
    max_value_bytes: int | None = None
    is_persistent: bool = True
    keeps_users: bool | None = None  # over a restart


@dataclass(frozen=True, slots=True)
class BrokerUse:
    """What the pool wants of it. `is_local`: agents reach it on this machine only."""

    is_local: bool
    pushes_to_nodes: bool


def faults(facts: BrokerFacts, use: BrokerUse) -> list[str]:
    """Why the pool cannot use this server; nothing where it can."""
    if facts.version < LEAST_VERSION:
        # What else it says may follow from that.
        return [f"{facts.name} is too old: use Redis 7.0 or later, or Valkey"]
    return [*_kind_faults(facts), *_access_faults(facts, use), *_memory_faults(facts, use)]


def _kind_faults(facts: BrokerFacts) -> Iterator[str]:
    if facts.is_cluster:
        yield "it is a cluster, which Celery cannot use: take a server that is none (cluster-enabled no)"
    if facts.is_replica:
        yield "it is a replica, which takes no writes: REDIS_URL must lead to its master, or to Sentinels"


def _access_faults(facts: BrokerFacts, use: BrokerUse) -> Iterator[str]:
    if facts.acl_trouble:
        yield (
            f"it makes no users for agents ({facts.acl_trouble}): its access lists must be on, and the "
            f"pool's user {facts.user} must be allowed to change them (ACL SETUSER {facts.user} +@all)"
        )
    if facts.missing_commands:
        yield (
            f"its user {facts.user} may not run {', '.join(facts.missing_commands)}: give the pool's user "
            f"all commands, keys and channels (ACL SETUSER {facts.user} +@all ~* &*)"
        )
    if facts.is_open and not use.is_local:
        yield (
            "whoever reaches it may do everything without a password, and agents reach it over a network: "
            "make a user for the pool, name it in REDIS_URL, and turn the default user off "
            "(ACL SETUSER default off)"
        )


def _memory_faults(facts: BrokerFacts, use: BrokerUse) -> Iterator[str]:
    if facts.max_memory_bytes and facts.eviction_policy != _NO_EVICTION:
        yield (
            f"its maxmemory-policy is {facts.eviction_policy}: when its memory is full it would forget which "
            f"nodes are there. Set it to {_NO_EVICTION} (CONFIG SET maxmemory-policy {_NO_EVICTION}, and in "
            "its configuration)"
        )
    if use.pushes_to_nodes and not facts.is_persistent:
        yield (
            "it keeps nothing over a restart, and with PUSH_TO_NODES what workers without an agent are paid "
            "depends on what it remembers: set appendonly yes"
        )


def warnings(facts: BrokerFacts, use: BrokerUse) -> list[str]:
    """What an operator should know of a server that the pool can use."""
    return list(_warnings(facts, use))


def _warnings(facts: BrokerFacts, use: BrokerUse) -> Iterator[str]:
    if facts.is_open and use.is_local:
        yield (
            "whoever reaches it may do everything without a password, programs on this machine too: make a "
            "user for the pool and turn the default user off before other machines lend themselves"
        )
    if not facts.max_memory_bytes:
        yield (
            "it has no maxmemory: what fills it takes the machine's memory, until the system ends it. Set "
            f"maxmemory, with maxmemory-policy {_NO_EVICTION}"
        )
        if facts.eviction_policy != _NO_EVICTION:
            yield (
                f"its maxmemory-policy is {facts.eviction_policy}, which will not do once maxmemory is set: "
                f"set it to {_NO_EVICTION}"
            )
    if not facts.is_persistent and not use.pushes_to_nodes:
        yield (
            "it keeps nothing over a restart: the pool builds it again from SQL within seconds, live output "
            "begins anew, and agents enrol again. appendonly yes spares that"
        )
    elif facts.keeps_users is False:
        yield "it has no aclfile: agents enrol again after each of its restarts. Set aclfile"
    if facts.max_value_bytes is not None and facts.max_value_bytes > MOST_VALUE_BYTES:
        yield (
            f"it takes values of {facts.max_value_bytes >> 20} MiB, and so does an agent's report: set "
            "proto-max-bulk-len 1mb"
        )
