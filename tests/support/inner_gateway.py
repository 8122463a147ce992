"""A gateway in the test's own process, whose lanes a test can fill: real gRPC, processes and stores."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from gateway import context
from gateway.admission.open_calls import CallLimits, OpenCalls
from gateway.listening import bind
from gateway.server import make_server
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from tests.support import heavy_jobs
from tests.support.accounts import CALL_SECONDS, Account, Stubs, register
from tests.support.databases import sqlite_file
from tests.support.gateway import SECRET
from tests.support.stores import place
from tests.support.valkey import TestValkey

PASSWORD = "a good password"


@dataclass(frozen=True)
class Running:
    """An attempt that its node has claimed."""

    account: Account
    task_id: str
    node_id: str
    attempt_id: str

    def end(self, result: bytes = b"", **told: object) -> pb.FinishAttemptRequest:
        """The first message of its end; with a result that comes after it."""
        values = {
            "attempt_id": self.attempt_id,
            "node_id": self.node_id,
            "outcome": pb.ATTEMPT_OUTCOME_SUCCEEDED,
            "result_bytes": len(result),
            "result_sha256": hashlib.sha256(result).hexdigest() if result else "",
            **told,
        }
        return pb.FinishAttemptRequest(end=pb.AttemptEnd(**values))  # type: ignore[arg-type]


class InnerGateway:
    """Serving from here on; close() it."""

    def __init__(self, folder: Path, valkey: TestValkey, **settings: object) -> None:
        self.folder = folder
        self.settings = Settings.model_validate(
            {
                "grpc_server_port": 0,
                "redis_url": valkey.url,
                "db_path": sqlite_file(folder / "users.db"),
                "task_storage_path": folder / "storage",
                "jwt_secret_key": SECRET,
                "newcomer_balance_cpt": 10**9,
                "bcrypt_rounds": 4,
                "login_attempts_per_minute": 100_000,
                "logins_per_minute_per_address": 100_000,
                **settings,
            }
        )
        self.gateway = context.build(self.settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.stubs = Stubs(self.channel)

    async def _serve(self) -> int:
        self.calls = OpenCalls(CallLimits.from_settings(self.settings))
        self._server, _ = make_server(self.gateway, self.calls)
        port = bind(self._server, self.settings)
        self.gateway.reader.ports = (port,)
        self.gateway.events.start(asyncio.get_running_loop())
        await self._server.start()
        return port

    def restart(self) -> None:
        """Every open call is cut, and another server answers on the same port."""
        asyncio.run_coroutine_threadsafe(self._serve_again(), self._loop).result(30)

    async def _serve_again(self) -> None:
        await self._server.stop(None)
        self._server, _ = make_server(self.gateway, self.calls)
        assert (
            bind(self._server, self.settings.model_copy(update={"grpc_server_port": self.port})) == self.port
        )
        await self._server.start()

    def someone(self) -> Account:
        return register(self.stubs, f"user-{secrets.token_hex(4)}", PASSWORD)

    def user_id(self, account: Account) -> int:
        return self.gateway.tokens.read(account.token).user_id

    def packages(self) -> list[str]:
        """Names of the packages on the disk."""
        return sorted(path.name for path in (self.folder / "storage/packages").glob("*/*"))

    def running(self, account: Account, data: bytes) -> Running:
        """A task of the account that a node of its own has claimed."""
        node_id = f"{account.username}/node"
        node = pb.RegisterWorkerNodeRequest(
            node_id=node_id, hostname="host", cpu_cores=4, memory_gb=4, cpu_score=1000, kind="agent"
        )
        account.stubs.nodes.RegisterWorkerNode(node, metadata=account.metadata, timeout=CALL_SECONDS)
        task_id = account.submit(data)
        assert self.gateway.database.write(lambda connection: place(connection, task_id, node_id))
        running = Running(account, task_id, node_id, f"{task_id}:1")
        claim = pb.ClaimAttemptRequest(attempt_id=running.attempt_id, node_id=node_id)
        claimed = account.stubs.nodes.ClaimAttempt(claim, metadata=account.metadata, timeout=CALL_SECONDS)
        assert len(list(claimed)) > 1
        return running

    def left_on_their_way(self) -> list[str]:
        """Files of what came and was not kept."""
        return sorted(path.name for path in (self.folder / "storage/incoming").iterdir())

    def is_idle(self) -> bool:
        """No call is open, and nothing of one is counted."""
        return not self.calls._open and self.gateway.memory.held_bytes == 0

    @contextmanager
    def full_of(self, *accounts: Account) -> Iterator[None]:
        """Every process for heavy work is taken by these, and each has as much waiting as it may."""
        go = self.folder / f"go-{secrets.token_hex(4)}"
        jobs: list[Future[int]] = []
        try:
            for account in accounts:
                for _ in range(1 + self.settings.heavy_waiting_per_account):
                    user_id = self.user_id(account)
                    jobs.append(self.gateway.heavy.submit(user_id, heavy_jobs.wait_for, str(go)))
            yield
            assert not any(job.done() for job in jobs), "they were in the way all the time"
        finally:
            go.touch()
            for job in jobs:
                job.result(60)

    def close(self) -> None:
        self.channel.close()
        asyncio.run_coroutine_threadsafe(self._server.stop(None), self._loop).result(30)
        self.gateway.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class FromElsewhere:
    """A way to a port of this machine from another address of it. Each connection says `begin` first."""

    def __init__(self, port: int, address: str, begin: bytes = b"") -> None:
        self._to, self._address, self._begin = port, address, begin
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            target = socket.create_connection(("127.0.0.1", self._to), source_address=(self._address, 0))
            target.sendall(self._begin)
            for one, other in ((caller, target), (target, caller)):
                thread = threading.Thread(target=_forward, args=(one, other), daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    # The other thread ends with it, and closes the other one.
    source.close()
