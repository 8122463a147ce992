"""The pool that is broken: real parts, with a line that can be broken before each of their connections."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sqlalchemy.engine import make_url

from nodepool.messaging.publisher import Publisher, make_app
from nodepool.settings import Settings
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from tests.chaos.plan import BROKER_LINES, DATABASE_LINES, GATEWAY_LINES, Need
from tests.support import engine
from tests.support.pool import PoolOptions, TestAgent, TestPool
from tests.support.postgres_server import PostgresServer
from tests.support.processes import TestProcess
from tests.support.sentinel import SentinelBroker
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import TestValkey

AGENTS = 2
SLOTS = 2
DISK_MIB = 96
# As an operator would have them, but for the first line: a node that died is to be known soon.
SETTINGS = {
    "REPORT_PERIOD_SECONDS": "1", "LEASE_SECONDS": "6", "NODE_LATE_SECONDS": "8", "SWEEP_PERIOD_SECONDS": "1",
    "MAX_WORKDIR_BYTES": str(16 << 20), "NEWCOMER_CREDIT_SCORE": "100",
}  # fmt: skip
# Sent again each time, beyond what is needed.
_COPIES, _RECENT = 3, 20
# Debian's libfaketime.
_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    database: str = "sqlite"
    runner: str = "process"
    sentinel: bool = False
    clocks: bool = False  # parts whose clocks can be moved; they are slower to start


def have(options: StageOptions) -> frozenset[Need]:
    """What faults can be made on such a stage, here."""
    found = {Need.SENTINEL} if options.sentinel else {Need.PROXIES, Need.ONE_BROKER}
    if options.database == "postgres":
        found.add(Need.POSTGRES)
    if os.geteuid() == 0:
        found.add(Need.ROOT)
    if options.clocks and _FAKETIME:
        found.add(Need.FAKETIME)
    return frozenset(found)


class Watched(Protocol):
    """What is seen of the pool's books."""

    attempts: Any
    tasks: Any


class Stage(TestPool):
    """A pool whose parts meet each other over proxies. Its disks, where root made it, are small."""

    # What each part's log says when it is there.
    online_words: ClassVar = {
        "gateway": "gateway.serving", "dispatcher": " ready.", "agent": "the node is online",
    }  # fmt: skip

    def __init__(self, folder: Path, options: StageOptions) -> None:
        self.staged = options
        self.lines = {name: TcpProxy() for name in (*GATEWAY_LINES, *BROKER_LINES, *DATABASE_LINES)}
        self.postgres: PostgresServer | None = None
        if options.database == "postgres":
            self.postgres = PostgresServer(folder / "postgres")
        self.mounts: list[Path] = []
        # Nodes whose agents are not there, by a fault; "" for other parts.
        self.away: set[str] = set()
        super().__init__(folder, _pool_options(options, self.postgres))
        for name, line in self.lines.items():
            if name in GATEWAY_LINES:
                line.target_port = self.port
            elif name in BROKER_LINES:
                line.target_port = self.valkey.port
            elif self.postgres:
                line.target_port = self.postgres.port
        if options.clocks:
            self.valkey.process.env.update(self._clock("broker"))

    # -- its life --------------------------------------------------------------------------------------
    def start(self) -> None:
        if self.postgres:
            self.postgres.start()
            database = Database(self.postgres.url)
            migrate(database)
            database.close()
        self.disk(self.folder / "storage")
        super().start()
        for number in range(1, AGENTS + 1):
            self._begin_agent(f"node{number}-{os.getpid()}")
        for agent in self.agents:
            self.wait_online(agent)

    def _begin_agent(self, name: str) -> TestAgent:
        """Each of an owner of its own, so that it shows whose credit moved."""
        self.disk(self.folder / f"agent-{name}")
        return self.add_agent(name, self.register_user(f"owner-{name}"), wait=False)

    def disk(self, folder: Path) -> None:
        folder.mkdir(mode=0o711)
        if os.geteuid() == 0:
            options = f"size={DISK_MIB}m,mode=0711"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
            self.mounts.append(folder)

    def end(self) -> None:
        """Also where something is frozen, or never began."""
        try:
            if self.postgres:
                self.postgres.thaw()
            self.close()
        finally:
            self.kill_everything()
            for line in self.lines.values():
                line.close()
            if self.postgres:
                self.postgres.close()
            for folder in self.mounts:
                subprocess.run(["umount", "-l", str(folder)], check=False)

    # -- what its parts are told -----------------------------------------------------------------------
    @property
    def database_url(self) -> str:
        return self.postgres.url if self.postgres else super().database_url

    @property
    def client_address(self) -> str:
        return self.lines["client-gateway"].address

    @property
    def slots(self) -> dict[str, int]:
        return {agent.node_id: SLOTS for agent in self.agents}

    def base_environment(self) -> dict[str, str]:
        """Agents'; gateway and dispatcher have clocks of their own."""
        return {**super().base_environment(), **self._clock("agent")}

    def _part(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> TestProcess:
        told = {**environment, **self._clock(name)}
        if not self.staged.sentinel:
            direct = f"127.0.0.1:{self.valkey.port}"
            for variable in ("REDIS_URL", "CELERY_BROKER_URL"):
                line = self.lines.get(f"{name}-broker", self.lines["gateway-broker"])
                told[variable] = told[variable].replace(direct, line.address)
            told["AGENT_REDIS_URL"] = told["AGENT_REDIS_URL"].replace(
                direct, self.lines["agents-broker"].address
            )
        if self.postgres and (found := self.lines.get(f"{name}-database")):
            url = make_url(told["DATABASE_URL"]).set(port=found.port)
            told["DATABASE_URL"] = url.render_as_string(hide_password=False)
        return super()._part(name, argv, told)

    def add_agent(self, name: str = "", owner: object = None, **more: object) -> TestAgent:
        arguments = (
            "--gateway", self.lines["agents-gateway"].address, "--max-tasks", str(SLOTS),
            "--memory-gb", "4", "--cpu-score", "4000",
        )  # fmt: skip
        return super().add_agent(name, owner, arguments=arguments, **more)  # type: ignore[arg-type]

    # -- hints -----------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def doubler(self) -> Iterator[Callable[[Watched], None]]:
        """Tells everything again: of tasks that wait, and of attempts that were given, run or have ended."""
        app = make_app(Settings(redis_url=self.valkey.url), "doubler")
        publisher = Publisher(app)

        def again(watch: Watched) -> None:
            for attempt_id, seen in list(watch.attempts.items())[-_RECENT:]:
                for _ in range(_COPIES):
                    publisher.execute(seen.node_id, attempt_id)
            for task_id, task in list(watch.tasks.items())[-_RECENT:]:
                if task.state == "QUEUED":
                    publisher.place(task_id, "normal", "any")

        yield again
        app.close()

    # -- clocks ----------------------------------------------------------------------------------------
    def clock_file(self, part: str) -> Path:
        """What the part's clock is off by, as libfaketime reads it."""
        return self.folder / f"clock-{part}"

    def _clock(self, part: str) -> dict[str, str]:
        if not (self.staged.clocks and _FAKETIME):
            return {}
        file = self.clock_file(part)
        if not file.exists():
            file.write_text("+0\n")
        return {
            "LD_PRELOAD": str(_FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


def _pool_options(options: StageOptions, server: PostgresServer | None) -> PoolOptions:
    with_image = {}
    if options.runner == "docker":
        with engine.engine() as client:
            with_image = {"image": engine.image_name(client)}
    return PoolOptions(
        agents=0,
        runner=options.runner,
        settings=SETTINGS,
        database_url=server.url if server else "",
        broker=SentinelBroker if options.sentinel else TestValkey,
        **with_image,
    )
