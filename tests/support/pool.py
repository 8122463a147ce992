"""A whole real pool in a temporary folder: Valkey, gateway, dispatcher and agents, each its own process."""

from __future__ import annotations

import functools
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import Engine, Executable, NullPool, Row, create_engine, select

from local_pool import plan
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import attempts
from tests.support.accounts import Account, Stubs, register
from tests.support.databases import sqlite_file
from tests.support.environment import ROOT, free_port
from tests.support.key_leaks import keys_without_a_ttl
from tests.support.processes import TestProcess, run_name
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

# Short periods, so that a test of what happens when one passes is over soon; long enough for a busy machine.
SETTINGS = {
    "BCRYPT_ROUNDS": "4",
    "LOGIN_ATTEMPTS_PER_MINUTE": "100000",
    "LOGINS_PER_MINUTE_PER_ADDRESS": "100000",
    "REPORT_PERIOD_SECONDS": "1",
    "LEASE_SECONDS": "6",
    "NODE_LATE_SECONDS": "8",
    "SWEEP_PERIOD_SECONDS": "1",
    # Or a test's worker is given checks of what other tests' workers returned.
    "AUDIT_SHARE": "0",
    "LOG_LEVEL": "INFO",
    # Pools run beside each other; who wants metrics takes a free port.
    "GATEWAY_METRICS_PORT": "0",
    "DISPATCHER_METRICS_PORT": "0",
    # Tests see no tasks but their own.
    "PROBE_HOURS": "0",
    # Enough for whatever a test submits.
    "NEWCOMER_BALANCE_CPT": str(10**12),
}
MESSAGE_BYTES = 100 << 20
FLOWER_LOGIN = ("flower", "a-flower-password")


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """What a test wants to be different. `settings` are environment variables of gateway and dispatcher."""

    agents: int = 1
    runner: str = "process"
    image: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    database_url: str = ""
    agent_arguments: tuple[str, ...] = ()
    # The tests' own programs are no strangers, and a machine may have neither bubblewrap nor root.
    accept_strangers: bool = True
    flower: bool = False
    broker: Callable[[Path], TestValkey] = TestValkey


class TestAgent(TestProcess):
    """`python -m worker_agent` of one owner."""

    node_id: str
    owner: Account


class TestPool:
    """Started by start() with its agents online; close() ends it and fails on what it left behind."""

    __test__ = False

    def __init__(self, folder: Path, options: PoolOptions) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.valkey = options.broker(folder / "valkey")
        self.agents: list[TestAgent] = []
        (folder / "logs").mkdir()
        environment = self.environment()
        self.gateway = self._part("gateway", plan.gateway_part(environment).argv, environment)
        self.dispatcher = self._part("dispatcher", plan.dispatcher_part(environment).argv, environment)
        self.flower_port = free_port()
        self.flower = self._part(
            "flower",
            (sys.executable, "-m", "dispatcher.flower", "--port", str(self.flower_port)),
            {**environment, "FLOWER_BASIC_AUTH": ":".join(FLOWER_LOGIN)},
        )
        self._channels: list[grpc.Channel] = []
        self._owner: Account | None = None

    # -- its parts -----------------------------------------------------------------------------------
    @property
    def database_url(self) -> str:
        return self.options.database_url or f"sqlite:///{sqlite_file(self.folder / 'users.db')}"

    def base_environment(self) -> dict[str, str]:
        """What every part gets: nothing of the person's own environment but where programs are."""
        kept = ("PATH", "DOCKER_HOST", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def environment(self) -> dict[str, str]:
        """The environment of gateway and dispatcher."""
        image = {"DEFAULT_IMAGE": self.options.image} if self.options.image else {}
        return {
            **self.base_environment(),
            "GRPC_SERVER_HOST": "127.0.0.1",
            "GRPC_SERVER_PORT": str(self.port),
            **self.valkey.settings,
            "DATABASE_URL": self.database_url,
            "JWT_SECRET_KEY": self._secret("jwt"),
            "STORAGE_KEY": self._secret("storage"),
            "TASK_STORAGE_PATH": str(self.folder / "storage"),
            **SETTINGS,
            **image,
            **self.options.settings,
        }

    def _secret(self, name: str) -> str:
        path = self.folder / f"{name}.secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        return path.read_text()

    def _part(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> TestProcess:
        return TestProcess(name, argv, environment, self.folder, self.folder / "logs" / f"{name}.log")

    # -- its life ------------------------------------------------------------------------------------
    def start(self) -> None:
        self.valkey.start()
        self.start_gateway()
        self.dispatcher.start()
        if self.options.flower:
            self.flower.start()
        for _ in range(self.options.agents):
            self.add_agent(wait=False)
        for agent in self.agents:
            self.wait_online(agent)

    def start_gateway(self) -> None:
        self.gateway.start()
        self.wait_serving()

    def restart_gateway(self) -> None:
        """A clean stop where it still runs, and a start on the same port."""
        if self.gateway.is_running:
            self.gateway.stop()
        self.start_gateway()

    def restart_dispatcher(self) -> None:
        if self.dispatcher.is_running:
            self.dispatcher.stop()
        self.dispatcher.start()

    def wait_serving(self) -> None:
        stubs = self.stubs()

        def healthy() -> bool:
            if not self.gateway.is_running:
                raise AssertionError(f"the gateway ended:\n{self.gateway.log_tail()}")
            try:
                return bool(stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=2).healthy)
            except grpc.RpcError:
                return False

        self.wait(healthy, "the gateway is healthy", 60)

    def close(self) -> None:
        """Stops agents, dispatcher, gateway and Valkey in this order, then tells what went wrong."""
        problems = []
        for part in (*self.agents, self.flower, self.dispatcher, self.gateway):
            if part.is_running:
                part.thaw()
                try:
                    part.stop()
                except AssertionError as error:
                    problems.append(str(error))
        if self.valkey.process.is_running:
            self.valkey.thaw()
            stay = keys_without_a_ttl(self.valkey.admin)
            if stay:
                problems.append(f"Redis keys without a TTL that are not registered as lasting: {stay}")
        for channel in self._channels:
            channel.close()
        self.valkey.close()
        if problems:
            raise AssertionError("\n".join(problems))

    def kill_everything(self) -> None:
        for part in (*self.agents, self.flower, self.dispatcher, self.gateway):
            part.kill()
        self.valkey.process.kill()

    # -- agents --------------------------------------------------------------------------------------
    @property
    def owner(self) -> Account:
        """The user whom the pool's first agents belong to."""
        if self._owner is None:
            self._owner = self.register_user("owner")
        return self._owner

    def add_agent(
        self,
        name: str = "",
        owner: Account | None = None,
        *,
        location: str = "Asia",
        runner: str = "",
        arguments: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "worker_agent"),
        within: tuple[str, ...] = (),
        elsewhere: Path | None = None,
        wait: bool = True,
    ) -> TestAgent:
        """One more agent; with `wait` it is online when this returns.

        `program` is what Python runs, `within` a command that Python is run by. `elsewhere` is the
        `hivemind-agent` of an environment of its own, for which this checkout is not there.
        """
        command = (str(elsewhere),) if elsewhere else (sys.executable, *program)
        environment = self.base_environment()
        if elsewhere:
            del environment["PYTHONPATH"]
        owner = owner or self.owner
        runner = runner or self.options.runner
        # An agent removes whatever containers of a node of its name are left: never another run's.
        name = name or f"node{len(self.agents) + 1}{f'-{run_name()}' if runner == 'docker' else ''}"
        agent = TestAgent(
            f"agent-{name}",
            [
                *within, *command, "--gateway", self.address, "--username", owner.username,
                "--node", name, "--location", location, "--runner", runner,
                "--data-dir", str(self.folder / f"agent-{name}"),
                *((plan.STRANGERS_OPTION,) if self.options.accept_strangers else ()),
                *self.options.agent_arguments, *arguments,
            ],
            {**environment, "HIVEMIND_PASSWORD": owner.password},
            self.folder,
            self.folder / "logs" / f"agent-{name}.log",
        )  # fmt: skip
        agent.owner = owner
        agent.node_id = f"{owner.username}/{name}"
        self.agents.append(agent)
        agent.start()
        if wait:
            self.wait_online(agent)
        return agent

    def wait_online(self, agent: TestAgent) -> None:
        """Until the agent consumes and its report is there."""
        agent.wait_for_line("the node is online")

        def reported() -> bool:
            if not agent.is_running:
                raise AssertionError(f"{agent.name} ended:\n{agent.log_tail()}")
            return bool(self.valkey.admin.exists(f"node:{agent.node_id}:report"))

        self.wait(reported, f"{agent.name} is online", 60)

    # -- people --------------------------------------------------------------------------------------
    def stubs(self) -> Stubs:
        """A channel of its own, closed with the pool."""
        options = [
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = grpc.insecure_channel(self.address, options=options)
        self._channels.append(channel)
        return Stubs(channel)

    def attempt(self, task_id: str, number: int = 1) -> str:
        """The id of this attempt of the task, which only the database knows."""
        columns = attempts.c.task_id == task_id, attempts.c.number == number
        (found,) = self.rows(select(attempts.c.id).where(*columns))
        return str(found.id)

    @functools.cached_property
    def _engine(self) -> Engine:
        """It compiles each statement once, and keeps no connection."""
        return create_engine(self.database_url, poolclass=NullPool)

    def rows(self, query: Executable) -> list[Row[Any]]:
        """What the database answers, whatever part of the pool runs."""
        with self._engine.connect() as connection:
            return list(connection.execute(query))

    def register_user(self, name: str = "") -> Account:
        """A new user, logged in; a name is made up when none is given."""
        return register(self.stubs(), name or f"user-{secrets.token_hex(4)}", secrets.token_hex(8))

    # -- when it goes wrong --------------------------------------------------------------------------
    def logs(self) -> str:
        """The ends of all parts' logs, for a failing test's report."""
        parts = (self.gateway, self.dispatcher, *self.agents)
        return "\n".join(f"----- {part.name}\n{part.log_tail()}" for part in parts)

    def wait_for_storage(self) -> None:
        """Until the dispatcher has marked the storage as this pool's: after that only tasks make files."""
        mark = Path(self.environment()["TASK_STORAGE_PATH"]) / "pool.id"
        self.wait(mark.exists, "the storage is marked")

    def wait(self, predicate: Callable[[], object], description: str, timeout: float = 60.0) -> None:
        """wait_until, with the logs of all parts where it fails."""
        try:
            wait_until(predicate, description, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None


# What the fixture pool_factory gives: keywords are PoolOptions.
PoolFactory = Callable[..., TestPool]
