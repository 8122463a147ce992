"""The gateway alone, as a process, for tests of who gets in and what they find there."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import grpc

from tests.support.accounts import Stubs
from tests.support.databases import sqlite_file
from tests.support.environment import ROOT, free_port
from tests.support.processes import TestProcess
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

SECRET = secrets.token_hex(32)
NEWCOMER_CPT = 100


class GatewayProcess(TestProcess):
    """`python -m gateway` on a loopback port with its files in a folder."""

    def __init__(self, folder: Path, valkey: TestValkey, **settings: str) -> None:
        self.home = folder
        self.port = int(settings.get("GRPC_SERVER_PORT") or free_port())
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "GRPC_SERVER_PORT": str(self.port),
            "REDIS_URL": valkey.url,
            "DB_PATH": str(sqlite_file(folder / "users.db")),
            "TASK_STORAGE_PATH": str(folder / "storage"),
            "JWT_SECRET_KEY": SECRET,
            "NEWCOMER_BALANCE_CPT": str(NEWCOMER_CPT),
            "BCRYPT_ROUNDS": "4",
            "LOGIN_ATTEMPTS_PER_MINUTE": "100000",
            "LOGINS_PER_MINUTE_PER_ADDRESS": "100000",
            **settings,
        }
        super().__init__(
            "gateway",
            [sys.executable, "-m", "gateway"],
            environment,
            folder,
            folder / f"gateway-{self.port}.log",
        )
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stubs = Stubs(self.channel)

    def start_serving(self) -> GatewayProcess:
        self.start()
        wait_until(
            lambda: "gateway is serving" in self.log() or not self.is_running, "the gateway serves", 60
        )
        assert self.is_running, self.log_tail()
        return self

    def close(self) -> None:
        self.channel.close()
        if self.is_running:
            self.stop()
