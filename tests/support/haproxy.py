"""Debian's HAProxy for tests, and with it a Valkey that is reached over TLS: the embedded one has none."""

from __future__ import annotations

import datetime
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.environment import free_port, not_here
from tests.support.processes import TestProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

HOST = "127.0.0.1"
EXPIRED = -datetime.timedelta(hours=1)
_DEFAULTS = """
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
"""


def program() -> str:
    """Where HAProxy is. Skips the test where it is not installed, and fails it where everything has to be."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return found or not_here("haproxy is not installed")


class Haproxy(TestProcess):
    """`ports` are those that it listens on when it is there."""

    def __init__(
        self, folder: Path, config: Path, ports: tuple[int, ...], env: Mapping[str, str] | None = None
    ) -> None:
        # -db: in the foreground; -W would make a second process.
        argv = [program(), "-db", "-f", str(config)]
        environment = {"PATH": os.environ["PATH"], **(env or {})}
        super().__init__("haproxy", argv, environment, folder, folder / "haproxy.log")
        self._ports = ports

    def begin(self) -> None:
        self.start()
        for port in self._ports:
            wait_until(lambda port=port: _listens(port) or not self.is_running, f"HAProxy has port {port}")
        assert self.is_running, self.log_tail()


class TlsDoors:
    """Ports of one server over TLS, each with another certificate. What is behind them speaks plain text."""

    def __init__(self, folder: Path, target_port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority, self.other = Authority(folder, "authority"), Authority(folder, "other")
        files = {
            "good": self.authority.sign("good", HOST),
            "of another authority": self.other.sign("another", HOST),
            "of another host": self.authority.sign("elsewhere", "broker.example"),
            "expired": self.authority.sign("expired", HOST, EXPIRED),
        }
        self.ports = {name: free_port() for name in files}
        binds = "\n".join(f"  bind {HOST}:{self.ports[name]} ssl crt {file}" for name, file in files.items())
        listen = f"{_DEFAULTS}\nlisten broker\n{binds}\n  server valkey {HOST}:{target_port}\n"
        config = folder / "haproxy.cfg"
        config.write_text(f"global\n  log stdout format raw local0\n{listen}")
        self.process = Haproxy(folder, config, tuple(self.ports.values()))

    def url(self, door: str, login: str = "") -> str:
        return f"rediss://{login}{HOST}:{self.ports[door]}/0"


class TlsValkey(TestValkey):
    """For TestPool: every part of the pool gets in by the good door."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.doors = TlsDoors(folder / "tls", self.port)

    @property
    def settings(self) -> dict[str, str]:
        return {
            "REDIS_URL": self.doors.url("good", f"{self.user}:{self.password}@"),
            "AGENT_REDIS_URL": self.doors.url("good"),
            "REDIS_CA_FILE": str(self.doors.authority.file),
        }

    def start(self) -> None:
        super().start()
        if not self.doors.process.is_running:
            self.doors.process.begin()

    def close(self) -> None:
        self.doors.process.kill()
        super().close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
