"""The address that follows the master, as deploy/sentinel has it: a master of before draws nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.sentinel import SentinelBroker
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[SentinelBroker]:
    made = SentinelBroker(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


def dial(broker: SentinelBroker) -> redis.Redis:
    """A client that connects once and never again."""
    return redis.Redis(
        port=broker.agents_port, username=broker.user, password=broker.password, decode_responses=True,
        socket_timeout=5, retry=None, single_connection_client=True,
    )  # fmt: skip


def asked(client: redis.Redis) -> str:
    """Which server the connection leads to; empty where it leads nowhere any more."""
    try:
        return str(client.get("who") or "")
    except redis.RedisError:
        return ""


def leads_to(broker: SentinelBroker) -> str:
    """Which server a new connection gets; empty where there is none just now."""
    try:
        with dial(broker) as client:
            return asked(client)
    except redis.RedisError:
        return ""


def shut_out_sentinels(broker: SentinelBroker, server: TestValkey) -> None:
    """They cannot tell it that it is the master no more. Who is connected stays."""
    admin = server.admin
    admin.execute_command("ACL", "SETUSER", broker.user, "resetpass", ">another")
    for client in admin.client_list():
        if client["name"].startswith("sentinel-"):
            admin.client_kill_filter(_id=client["id"])


def test_a_master_of_before_that_still_says_so_gets_no_connection_and_keeps_none(
    broker: SentinelBroker,
) -> None:
    old = broker.master
    old.admin.set("who", "old")
    wait_until(lambda: leads_to(broker) == "old", "the address leads to the master")
    with dial(broker) as kept:
        assert asked(kept) == "old"
        shut_out_sentinels(broker, old)
        wait_until(lambda: broker.master is not old, "the sentinels have another master")
        broker.master.admin.set("who", "new")
        wait_until(lambda: asked(kept) == "", "who is connected to the old master is sent away")
    assert old.admin.info("replication")["role"] == "master"
    wait_until(lambda: leads_to(broker) == "new", "the address leads to the new master")
