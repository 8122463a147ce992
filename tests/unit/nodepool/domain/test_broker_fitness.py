"""Which servers will do as the pool's broker, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodepool.domain.broker_fitness import BrokerFacts, BrokerUse, faults, warnings

GOOD = BrokerFacts(
    name="Redis 7.0.15", version=(7, 0, 15), user="pool", max_memory_bytes=1 << 29,
    max_value_bytes=1 << 20, keeps_users=True,
)  # fmt: skip
LOCAL, REMOTE = BrokerUse(is_local=True, pushes_to_nodes=False), BrokerUse(False, False)
PUSHES = BrokerUse(is_local=True, pushes_to_nodes=True)


def test_a_good_server_is_taken_without_a_word() -> None:
    for use in (LOCAL, REMOTE, PUSHES):
        assert faults(GOOD, use) == []
        assert warnings(GOOD, use) == []


@pytest.mark.parametrize(
    ("change", "use", "said"),
    [
        ({"version": (6, 2, 9), "acl_trouble": "x"}, LOCAL, "too old: use Redis 7.0"),
        ({"is_cluster": True}, LOCAL, "is a cluster"),
        ({"is_replica": True}, LOCAL, "is a replica"),
        (
            {"acl_trouble": "unknown command 'ACL'"},
            LOCAL,
            "no users for agents (unknown command 'ACL')",
        ),
        ({"missing_commands": ("PUBLISH",)}, LOCAL, "user pool may not run PUBLISH"),
        ({"is_open": True}, REMOTE, "turn the default user off"),
        ({"eviction_policy": "allkeys-lru"}, LOCAL, "maxmemory-policy is allkeys-lru"),
        ({"eviction_policy": "volatile-ttl"}, LOCAL, "maxmemory-policy is volatile-ttl"),
        ({"is_persistent": False}, PUSHES, "set appendonly yes"),
    ],
)
def test_a_server_that_will_not_do_is_refused_with_the_reason(
    change: dict[str, Any], use: BrokerUse, said: str
) -> None:
    (found,) = faults(replace(GOOD, **change), use)
    assert said in found


@pytest.mark.parametrize(
    ("change", "use", "said"),
    [
        ({"is_open": True}, LOCAL, "without a password, programs on this machine too"),
        ({"max_memory_bytes": 0}, LOCAL, "has no maxmemory"),
        (
            {"max_memory_bytes": 0, "eviction_policy": "allkeys-lru"},
            LOCAL,
            "not do once maxmemory is set",
        ),
        ({"is_persistent": False}, LOCAL, "builds it again from SQL"),
        ({"keeps_users": False}, LOCAL, "has no aclfile"),
        ({"max_value_bytes": 512 << 20}, LOCAL, "proto-max-bulk-len 1mb"),
    ],
)
def test_a_server_that_could_be_better_is_taken_with_a_word(
    change: dict[str, Any], use: BrokerUse, said: str
) -> None:
    facts = replace(GOOD, **change)
    assert faults(facts, use) == []
    assert said in warnings(facts, use)[-1]


def test_all_faults_are_told_at_once() -> None:
    facts = replace(GOOD, is_replica=True, eviction_policy="allkeys-lru")
    assert len(faults(facts, LOCAL)) == 2
