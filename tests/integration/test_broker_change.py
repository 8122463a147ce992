"""Another server becomes the broker: agents get in there as before, and those that left do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from dispatcher.sweep.broker_change import BrokerChange
from nodepool.stores.redis import broker_users, keys
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


def test_a_server_that_takes_over_gets_the_users_of_active_nodes_back_and_no_others(
    valkey: TestValkey, tmp_path: Path
) -> None:
    """Users are not replicated: the replica has those of a time when it was the master, or none."""
    replica = TestValkey(tmp_path / "replica")
    replica.start()
    try:
        words = {
            node: broker_users.create(valkey.admin, node, base_url=replica.address) for node in ("o/a", "o/b")
        }
        broker_users.create(replica.admin, "o/a", base_url=replica.address)  # of long ago
        left = broker_users.create(replica.admin, "o/left", base_url=replica.address)
        replica.admin.config_set("masteruser", valkey.user)
        replica.admin.config_set("masterauth", valkey.password)
        replica.admin.replicaof("127.0.0.1", valkey.port)
        wait_until(lambda: replica.admin.hexists(keys.AGENT_USERS, "o/b"), "the data are there")
        replica.admin.replicaof("NO", "ONE")
        change = BrokerChange(replica.admin, lambda: ["o/a", "o/b", "o/new"], lambda: None)
        assert change.look()
        assert not change.look()
        for node, url in words.items():
            with redis.Redis.from_url(url) as agent:
                assert agent.set(keys.report(node), "{}")
                with pytest.raises(redis.exceptions.NoPermissionError):
                    agent.get(keys.AGENT_USERS)
        with redis.Redis.from_url(left) as gone, pytest.raises(redis.AuthenticationError):
            gone.ping()
        # A server that forgets its users while it is the broker is another start of it.
        replica.restart()
        assert change.look()
        broker_users.delete(replica.admin, "o/b")
        assert replica.admin.hkeys(keys.AGENT_USERS) == ["o/a"]
    finally:
        replica.close()
