"""From nothing to `ready`: the parts in their order, each waited for as far as the next one needs it.

Knows the plan and the questions that tell whether a part serves; who asks for the pool, and how it
is told, is `command.py`'s.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil

from local_pool import plan
from local_pool.agent_account import Opening
from local_pool.flower_probe import FlowerProbe
from local_pool.gateway_probe import GatewayProbe
from local_pool.plan import LOOPBACK, LocalMachine, PoolOptions, Secrets
from local_pool.private_files import kept_secret, private_dir
from local_pool.runner_choice import choose
from local_pool.supervisor import Supervisor
from local_pool.valkey import prepare
from nodepool.domain.nodes.isolation import Isolation
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.redis import fitness
from nodepool.stores.redis.client import connect

# Where the client looks when it is told nothing.
_CLIENTS_DEFAULT = "127.0.0.1:50051"
FLOWER_PATIENCE_SECONDS = 15.0


class Startup:
    """The way from nothing to `ready`."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Settings,
        options: PoolOptions,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        """`environment` is what `hivemind up` was started with, secrets and all."""
        self._supervisor = supervisor
        self._environment = environment
        self._settings = settings
        self._options = options = replace(options, operator=settings.admin_username or plan.OPERATOR)
        self._say = say
        folder = self._folder = private_dir(options.data_dir / "secrets")
        self._flower_file, self._operator_file = folder / "flower", folder / "operator"
        self._secrets = Secrets(
            jwt=kept_secret(folder / "jwt"),
            storage=kept_secret(folder / "storage"),
            operator=settings.admin_password or kept_secret(self._operator_file),
            flower=kept_secret(self._flower_file),
        )
        self._address = plan.gateway_address(settings, options)

    def all(self) -> None:
        """Raises StopRequestedError when a stop is asked for on the way."""
        options, supervisor = self._options, self._supervisor
        self._say(f"data directory {options.data_dir}")
        if options.agents:
            choice = choose(options.runner, self._settings.default_image)
            self._options = options = replace(options, runner=choice.runner)
            self._say(choice.reason)
        environment = plan.pool_environment(
            self._environment, self._settings, options, self._secrets, self._broker_url()
        )
        supervisor.start(plan.gateway_part(plan.gateway_environment(environment, options, self._secrets)))
        if options.flower:
            window = FlowerProbe(options.flower_port, plan.flower_login(environment, self._secrets))
            supervisor.start(plan.flower_part(environment, options, self._secrets, window.answers))
        link = GatewayProbe(self._address, certificate=self._settings.grpc_tls_cert_file)
        try:
            supervisor.wait_for(link.serves, "for the gateway")
            self._say(f"gateway serves on {self._address}")
            # It reads the tables that the gateway has made or brought up to date by now.
            supervisor.start(plan.dispatcher_part(environment))
            self._open_account(link)
            self._agents(link)
        finally:
            link.close()
        if options.flower:
            self._flower(window)
        self._print_addresses()

    def _broker_url(self) -> str:
        if not plan.wants_embedded_broker(self._settings):
            self._say("broker: the Redis that the environment names")
            with closing(connect(self._settings)) as client:
                fitness.check(client, self._settings)
            return self._settings.effective_redis_url
        valkey = prepare(self._options.data_dir, self._environment)
        self._supervisor.start(valkey.part)
        self._supervisor.wait_for(valkey.is_ready, "for Valkey")
        self._say(f"embedded Valkey serves on {LOOPBACK}:{valkey.port}")
        return valkey.url

    def _open_account(self, link: GatewayProbe) -> None:
        opening = Opening(link, self._folder)
        self._supervisor.wait_for(opening.attempt, "for an account of your own")
        self._account = opening.account
        self._options = replace(self._options, account=opening.account.name)

    def _agents(self, link: GatewayProbe) -> None:
        owner = self._options.account
        environment = plan.agent_environment(self._environment, self._account.password())
        machine = LocalMachine(psutil.cpu_count() or 1, psutil.virtual_memory().total)
        for number in self._numbers():
            self._supervisor.start(
                plan.agent_part(number, environment, self._settings, self._options, machine)
            )
        wanted = {plan.node_id(number, owner) for number in self._numbers()}
        if wanted:
            self._say(f"waiting for {len(wanted)} agent{'s' if len(wanted) > 1 else ''}")
            self._supervisor.wait_for(
                lambda: wanted <= link.online_nodes().keys(), "for all agents to be online"
            )
            online = link.online_nodes()
            for line in sorted({_isolation(online[name], owner) for name in wanted & online.keys()}):
                self._say(line)

    def _flower(self, window: FlowerProbe) -> None:
        """Until it shows the dispatcher and the agents; it is a window only, so not for ever."""
        owner = self._options.account
        names = {plan.worker_name(number, owner) for number in self._numbers()}
        patience = time.monotonic() + FLOWER_PATIENCE_SECONDS
        self._supervisor.wait_for(
            lambda: window.shows(names, plan.DISPATCHER_PREFIX) or time.monotonic() > patience, "for Flower"
        )

    def _numbers(self) -> range:
        return range(1, self._options.agents + 1)

    def _print_addresses(self) -> None:
        options = self._options
        self._say("ready")
        self._say(f"gateway         {self._address}")
        if options.flower:
            login = (
                "as FLOWER_BASIC_AUTH says"
                if self._environment.get(plan.FLOWER_LOGIN)
                else f"user {plan.FLOWER_USER}, password in {self._flower_file}"
            )
            self._say(f"Flower          http://{LOOPBACK}:{options.flower_port}  ({login})")
        self._say(f"your account    {self._account_line()}")
        self._say(f"operator        {self._operator()}")
        self._say(f"data and logs   {options.data_dir}")
        self._say("Ctrl-C stops the pool")

    def _account_line(self) -> str:
        """The agents' owner: whose tasks run here whatever isolation there is."""
        owner = self._options.account
        return f"user {owner}, owns the agents here: {self._login(owner, self._account.password_file)}"

    def _login(self, name: str, file: Path) -> str:
        elsewhere = "" if self._address == _CLIENTS_DEFAULT else f"--gateway {self._address} "
        return f"hivemind {elsewhere}login {name} --password-stdin < {shlex.quote(str(file))}"

    def _operator(self) -> str:
        name = self._options.operator
        if self._settings.admin_password:
            return f"user {name}, an admin, password as ADMIN_PASSWORD says"
        return (
            f"user {name}, an admin, password in {self._operator_file}: "
            f"{self._login(name, self._operator_file)}"
        )


def _isolation(node: pb.WorkerNodeInfo, owner: str) -> str:
    """What keeps tasks from this machine, and whose run here."""
    if node.owner_only:
        return (
            "isolation       none: tasks run as processes of this user and can read whatever it can, so only "
            f"tasks of {owner} run here. With bubblewrap or Docker installed, everybody's can"
        )
    if node.isolation == Isolation.NONE:
        return (
            "isolation       none: tasks run as processes of this user, and everybody's run here, as "
            f"{plan.STRANGERS_OPTION} wants it: they can read the pool's secrets and become its admin"
        )
    return f"isolation       {_LEVELS[Isolation(node.isolation)]}; everybody's tasks run here"


_LEVELS = {
    Isolation.CONTAINER: "containers: tasks see nothing of this machine",
    Isolation.BUBBLEWRAP: "bubblewrap: tasks see nothing of this machine but its programs",
    Isolation.USER: "users: each task runs as a user of its own, who can read nothing of yours",
}
