"""The embedded broker for real: who gets in, what survives, and what it does not take."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from local_pool.supervisor import Supervisor
from local_pool.valkey import EmbeddedValkey, prepare
from nodepool.stores.redis import broker_users
from tests.support.waiting import wait_until

NO_RETRY = Retry(NoBackoff(), 0)


class Broker:
    """An embedded Valkey under a supervisor, on a folder whose name has a blank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor = Supervisor(folder, self.said.append)
        self.clients: list[redis.Redis] = []

    def start(self) -> EmbeddedValkey:
        valkey = prepare(self.folder, os.environ)
        self.supervisor.start(valkey.part)
        self.supervisor.wait_for(valkey.is_ready, "for Valkey")
        return valkey

    def client(self, valkey: EmbeddedValkey, **login: str) -> redis.Redis:
        if login:
            client = redis.Redis(port=valkey.port, decode_responses=True, **login)
        else:
            client = redis.Redis.from_url(valkey.url, decode_responses=True)
        self.clients.append(client)
        return client

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        assert self.supervisor.stop_all()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "data dir")
    yield made
    made.stop()


def test_nobody_gets_in_without_the_pools_password(broker: Broker) -> None:
    valkey = broker.start()
    for client in (
        redis.Redis(port=valkey.port, retry=NO_RETRY),
        redis.Redis(port=valkey.port, password="pool", retry=NO_RETRY),
        redis.Redis(port=valkey.port, username="pool", password="wrong", retry=NO_RETRY),
    ):
        with client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_its_files_are_for_their_owner_and_hold_no_plain_password(broker: Broker) -> None:
    valkey = broker.start()
    broker.client(valkey).execute_command("ACL", "SAVE")
    password = (broker.folder / "valkey" / "password").read_text().strip()
    folder = broker.folder / "valkey"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        if path.is_file() and path.name != "password":
            assert password.encode() not in path.read_bytes(), path
    assert not any(password in word for word in valkey.part.argv)


def test_data_and_agents_survive_a_stop_and_a_start(broker: Broker) -> None:
    valkey = broker.start()
    admin = broker.client(valkey)
    admin.set("kept", "yes")
    admin.execute_command("ACL", "SETUSER", "agent-1", "on", ">agent-password", "-@all", "+ping")
    admin.execute_command("ACL", "SAVE")
    broker.stop()
    again = broker.start()
    assert again.port == valkey.port
    assert broker.client(again).get("kept") == "yes"
    assert broker.client(again, username="agent-1", password="agent-password").ping()


def test_data_survives_a_crash_and_the_supervisor_brings_it_back(broker: Broker) -> None:
    valkey = broker.start()
    admin = broker.client(valkey)
    admin.set("kept", "yes")
    # everysec: until it is on the disk, a crash of the machine could take it; one of the process cannot.
    wait_until(lambda: admin.info("persistence")["aof_last_write_status"] == "ok", "it is written")
    os.kill(broker.supervisor.pid("valkey"), signal.SIGKILL)
    broker.supervisor.wait_for(lambda: "valkey started again" in "\n".join(broker.said), "it is back")
    broker.supervisor.wait_for(valkey.is_ready, "for Valkey")
    assert admin.get("kept") == "yes"


def test_a_leftover_server_of_the_same_directory_is_ended_first(broker: Broker) -> None:
    valkey = broker.start()
    broker.client(valkey).set("kept", "yes")
    left = broker.supervisor.pid("valkey")
    # A second supervisor on the same folder, as after the first one was killed.
    second = Broker(broker.folder)
    second.supervisor.end_leftovers()
    again = second.start()
    try:
        assert second.said == ["ended valkey, left over from an earlier run"]
        assert second.supervisor.pid("valkey") != left
        assert second.client(again).get("kept") == "yes"
    finally:
        second.stop()


def test_it_takes_another_port_when_its_own_has_gone_to_somebody_else(broker: Broker) -> None:
    valkey = broker.start()
    broker.client(valkey).set("kept", "yes")
    broker.stop()
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        somebody.bind(("127.0.0.1", valkey.port))
        somebody.listen()
        again = broker.start()
        assert again.port != valkey.port
        assert broker.client(again).get("kept") == "yes"


def test_values_over_a_mebibyte_are_refused(broker: Broker) -> None:
    valkey = broker.start()
    with pytest.raises(redis.RedisError):  # the broker says why and hangs up, or only the latter is seen
        broker.client(valkey).set("large", "x" * ((1 << 20) + 1))
    admin = broker.client(valkey)
    assert not admin.exists("large")
    assert admin.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    assert int(admin.config_get("maxmemory")["maxmemory"]) > 0


LARGE = b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
MOST_SENT = 600
GREEDY = {
    "answers that nobody reads": (b"", b"*2\r\n$4\r\nPING\r\n" + LARGE),
    "a command without an end": (b"*100000\r\n$4\r\nPING\r\n", LARGE),
}


@pytest.mark.parametrize(("first", "again"), GREEDY.values(), ids=GREEDY.keys())
def test_an_agent_cannot_fill_the_brokers_memory(broker: Broker, first: bytes, again: bytes) -> None:
    """At its bound the broker takes nothing more of anybody, the pool included."""
    valkey = broker.start()
    pool = broker.client(valkey)
    bound = int(pool.config_get("maxmemory")["maxmemory"])
    agent = urlsplit(broker_users.create(pool, "ann/pc", base_url=valkey.url))
    sent = 0
    with socket.create_connection((agent.hostname or "", agent.port or 0)) as raw:
        raw.settimeout(10)
        raw.sendall(f"AUTH {unquote(agent.username or '')} {unquote(agent.password or '')}\r\n".encode())
        assert raw.recv(100) == b"+OK\r\n"
        with contextlib.suppress(ConnectionError):
            raw.sendall(first)
            while sent < MOST_SENT:
                raw.sendall(again)
                sent += 1
                assert int(pool.info("memory")["used_memory"]) < bound / 2
    assert sent < MOST_SENT, "it was cut off"
    assert pool.set("pool", "still writes")
