"""`hivemind up` as a person starts it, in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc

from local_pool.leftover_processes import read_pid_file
from tests.support.accounts import Stubs
from tests.support.environment import ROOT, free_port
from tests.support.processes import TestProcess
from tests.support.waiting import wait_until

START_SECONDS = 120.0
STOP_SECONDS = 90.0


class Up:
    """`hivemind up` with two agents on the process runner, on free ports."""

    agents = 2
    within: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.grpc_port, self.flower_port = free_port(), free_port()
        self._channels: list[grpc.Channel] = []
        self.process = self.command("up", self.data_dir, self.grpc_port, self.flower_port)

    def command(self, name: str, data_dir: Path, grpc_port: int, flower_port: int) -> TestProcess:
        argv = [
            *self.within, sys.executable, "-m", "hivemind", "up", "--data-dir", str(data_dir),
            "--grpc-port", str(grpc_port), "--flower-port", str(flower_port),
            "--agents", str(self.agents), "--runner", "process",
        ]  # fmt: skip
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "BCRYPT_ROUNDS": "4",
            "GATEWAY_METRICS_PORT": "0",
            "DISPATCHER_METRICS_PORT": "0",
        }
        return TestProcess(name, argv, environment, self.folder, self.folder / f"{name}.log")

    def start(self) -> None:
        seen = self.said("ready")
        self.process.start()
        self.wait(lambda: self.said("ready") > seen, "the pool is ready", START_SECONDS)

    def said(self, line: str) -> int:
        return self.process.log().splitlines().count(line)

    def wait(self, predicate: Any, description: str, timeout: float = 60.0) -> Any:
        def still() -> Any:
            assert self.process.is_running, f"it ended:\n{self.process.log_tail()}"
            return predicate()

        try:
            return wait_until(still, description, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self) -> str:
        files = [self.process.log_path, *sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"----- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def pid(self, part: str) -> int:
        found = read_pid_file(self.data_dir / "run" / f"{part}.pid")
        assert found is not None, part
        return found.pid

    def stubs(self) -> Stubs:
        channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self._channels.append(channel)
        return Stubs(channel)

    def secret(self, name: str) -> str:
        return (self.data_dir / "secrets" / name).read_text().strip()

    def flower(self, path: str, login: str | None = None) -> Any:
        """The answer's JSON; HTTPError for a refusal."""
        login = f"flower:{self.secret('flower')}" if login is None else login
        headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.flower_port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        if self.process.is_running:
            assert self.process.stop(STOP_SECONDS) == 0, self.logs()
