"""Real servers that will do as the broker and some that will not: what the parts of the pool say of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from nodepool.settings import Settings
from nodepool.stores.redis import broker_users, fitness
from nodepool.stores.redis.client import connect
from tests.support.environment import free_port
from tests.support.gateway import GatewayProcess
from tests.support.processes import TestProcess
from tests.support.up import Up
from tests.support.valkey import TestValkey, redis_server
from tests.support.waiting import wait_until


@pytest.fixture(scope="module", params=["valkey", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestValkey]:
    binary = redis_server() if request.param == "redis" else ""
    started = TestValkey(tmp_path_factory.mktemp("broker"), binary=binary)
    started.start()
    yield started
    started.close()


@pytest.fixture
def server(shared: TestValkey) -> Iterator[TestValkey]:
    """As `hivemind up` configures it; what a test changes is put back."""
    names = ("maxmemory", "maxmemory-policy", "appendonly", "proto-max-bulk-len")
    before = {name: str(shared.admin.config_get(name)[name]) for name in names}
    yield shared
    for name, value in before.items():
        shared.admin.config_set(name, value)
    shared.admin.acl_deluser("weak")
    make_user(shared, "default")


def settings(url: str, **more: object) -> Settings:
    return Settings(redis_url=url, **more)  # type: ignore[arg-type]


def check(url: str, **more: object) -> bool:
    with closing(connect(settings(url))) as client:
        return fitness.check(client, settings(url, **more))


def refused(url: str, **more: object) -> str:
    with pytest.raises(fitness.UnfitBrokerError) as caught:
        check(url, **more)
    return str(caught.value)


def test_both_servers_will_do_without_a_word(server: TestValkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    users = set(server.admin.acl_users())
    assert check(server.url)
    assert check(server.url, agent_redis_url="redis://broker.example:6379/0", push_to_nodes=True)
    assert caplog.messages == []
    assert set(server.admin.acl_users()) == users  # nothing of the look is left


def test_one_that_evicts_is_refused(server: TestValkey) -> None:
    server.admin.config_set("maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy is allkeys-lru" in refused(server.url)
    server.admin.config_set("maxmemory-policy", "volatile-lru")
    assert "CONFIG SET maxmemory-policy noeviction" in refused(server.url)


def test_one_that_keeps_nothing_is_told_of_and_refused_where_it_matters(
    server: TestValkey, caplog: pytest.LogCaptureFixture
) -> None:
    server.admin.config_set("appendonly", "no")
    assert check(server.url)
    assert any("keeps nothing over a restart" in line for line in caplog.messages)
    assert "set appendonly yes" in refused(server.url, push_to_nodes=True)


def test_one_without_limits_is_told_of(server: TestValkey, caplog: pytest.LogCaptureFixture) -> None:
    server.admin.config_set("maxmemory", 0)
    server.admin.config_set("proto-max-bulk-len", 512 << 20)
    assert check(server.url)
    assert [word in "\n".join(caplog.messages) for word in ("no maxmemory", "proto-max-bulk-len 1mb")] == [
        True
    ] * 2


def make_user(server: TestValkey, name: str, *words: str) -> None:
    server.admin.execute_command("ACL", "SETUSER", name, "reset", *words)  # type: ignore[no-untyped-call]


def test_a_user_without_the_rights_is_refused_with_what_it_lacks(server: TestValkey) -> None:
    url, base = server.url_for("weak", "secret"), ("on", ">secret", "~*", "&*")
    make_user(server, "weak", *base, "+@all", "-publish", "-client|kill")
    assert "user weak may not run PUBLISH, CLIENT KILL" in refused(url)
    make_user(server, "weak", *base, "+@all", "-acl")
    assert "makes no users for agents" in refused(url)
    make_user(server, "weak", *base, "-@all", "+ping")
    assert "does not let the pool in" in refused(url)
    assert "does not let the pool in" in refused(server.url_for("weak", "wrong"))


def test_one_that_is_open_to_everybody_is_for_this_machine_only(
    server: TestValkey, caplog: pytest.LogCaptureFixture
) -> None:
    make_user(server, "default", "on", "nopass", "~*", "&*", "+@all")
    assert check(server.address)
    assert any("programs on this machine too" in line for line in caplog.messages)
    assert "turn the default user off" in refused(
        server.address, agent_redis_url="redis://broker.example:6379/0"
    )


def test_a_replica_is_refused(server: TestValkey) -> None:
    server.admin.replicaof("127.0.0.1", str(free_port()))
    try:
        assert "is a replica" in refused(server.url)
    finally:
        server.admin.replicaof("NO", "ONE")


def test_one_that_cannot_be_reached_may_be_starting(caplog: pytest.LogCaptureFixture) -> None:
    assert not check(f"redis://pool:x@127.0.0.1:{free_port()}/0")
    assert any("cannot be looked at yet" in line for line in caplog.messages)


def test_an_access_list_names_only_what_the_server_knows(server: TestValkey) -> None:
    url = broker_users.create(server.admin, "ann/pc", base_url=server.address)
    knows = "client|setinfo" in server.admin.acl_cat("connection")
    assert knows is not ("redis-server" in server.process.argv[0])
    with redis.Redis.from_url(url) as agent:
        assert agent.ping()


@pytest.fixture(scope="module")
def unfit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestValkey]:
    """Debian's Redis as a cluster whose access lists cannot be changed."""
    folder = tmp_path_factory.mktemp("unfit")
    lines = ("cluster-enabled yes", f"cluster-port {free_port()}", 'rename-command ACL ""')
    started = TestValkey(folder, binary=redis_server(), more="\n".join(lines))
    started.start()
    yield started
    started.close()


REASONS = ("Redis 7.", "it is a cluster", "it makes no users for agents (unknown command 'ACL'")


def test_the_gateway_does_not_start_on_an_unfit_one(unfit: TestValkey, tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, unfit)
    gateway.start()
    wait_until(lambda: not gateway.is_running, "the gateway has ended")
    gateway.close()
    said = gateway.log()
    assert "Traceback" not in said
    assert [reason in said for reason in ("gateway: cannot start: ", *REASONS)] == [True] * 4


def test_the_dispatcher_does_not_start_on_an_unfit_one(unfit: TestValkey, tmp_path: Path) -> None:
    environment = GatewayProcess(tmp_path, unfit).env
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "dispatcher",
        "worker",
        "--pool",
        "threads",
        "--hostname",
        "d@x",
    ]
    dispatcher = TestProcess("dispatcher", argv, environment, tmp_path, tmp_path / "dispatcher.log")
    dispatcher.start()
    wait_until(lambda: not dispatcher.is_running, "the dispatcher has ended")
    said = dispatcher.log()
    assert [reason in said for reason in ("dispatcher: ", *REASONS)] == [True] * 4


def test_hivemind_up_does_not_start_on_an_unfit_one(unfit: TestValkey, tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.process.env["REDIS_URL"] = unfit.url
    up.process.start()
    wait_until(lambda: not up.process.is_running, "hivemind up has ended")
    up.close()
    said = up.process.log()
    assert "Traceback" not in said
    assert [reason in said for reason in ("Error: ", *REASONS)] == [True] * 4
