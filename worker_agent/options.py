"""What the agent can be told on its command line, and in the environment where it is a secret."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.gateway_choice import gateway_addresses
from nodepool.domain.ids import check_node_id
from nodepool.domain.nodes.node import MAX_TASKS_LIMIT
from nodepool.domain.regions import node_region
from nodepool.home import home
from worker_agent.runners.warm_rules import MOST_SANDBOXES

GATEWAY_VARIABLE = "HIVEMIND_GATEWAY"
PASSWORD_VARIABLE = "HIVEMIND_PASSWORD"  # noqa: S105  a name
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class RunnerChoice(StrEnum):
    AUTO = "auto"
    DOCKER = "docker"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """0 in a number means: as the machine is, or the default."""

    gateways: tuple[str, ...]  # host:port of each
    username: str
    password: str
    node_id: str
    location: str
    runner: RunnerChoice
    data_dir: Path
    max_tasks: int
    memory_gb: int
    cpu_score: int
    grace_seconds: float
    port: int
    log_level: str
    tls: bool
    ca_file: Path | None
    broker_ca_file: Path | None
    allow_insecure_plaintext: bool
    accepts_strangers: bool
    warm_sandboxes: int


def parse_options(arguments: Sequence[str], environment: Mapping[str, str]) -> AgentOptions:
    """Raises SystemExit with argparse's message when they are not valid."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        node_id = check_node_id(f"{given.username}/{given.node}")
        node_region(given.location)
        gateways = _gateways(given.gateway, environment)
        password = _password(given.password_file, environment)
    except (InvalidInputError, OSError) as error:
        parser.error(str(error))
    return AgentOptions(
        gateways=gateways,
        username=given.username,
        password=password,
        node_id=node_id,
        location=given.location,
        runner=RunnerChoice(given.runner),
        data_dir=(given.data_dir or home(environment) / ".hivemind" / "agent" / given.node).absolute(),
        max_tasks=given.max_tasks,
        memory_gb=given.memory_gb,
        cpu_score=given.cpu_score,
        grace_seconds=given.grace_seconds,
        port=given.port,
        log_level=given.log_level,
        tls=given.tls or given.ca_file is not None,
        ca_file=given.ca_file,
        broker_ca_file=given.broker_ca_file,
        allow_insecure_plaintext=given.allow_insecure_plaintext,
        accepts_strangers=given.let_strangers_read_this_machine,
        warm_sandboxes=given.warm_sandboxes,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hivemind-agent",
        description="Offers this machine to a HiveMind node pool and runs what the pool sends.",
        epilog=f"The password comes from --password-file or from the environment's {PASSWORD_VARIABLE}; the "
        f"gateways may come from {GATEWAY_VARIABLE}, with commas between.",
    )
    add = parser.add_argument
    add(
        "--gateway",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="the pool's gateway; several, or with commas between: whichever can be reached",
    )
    add("--username", required=True, help="the account that owns this node and is paid")
    add("--password-file", type=Path, metavar="FILE", help="file with the account's password")
    add("--node", default=_host_name(), metavar="NAME", help="name of this node (default: the host's)")
    add("--location", default="Unknown", help="region of this node: asia, europe, ... (default: Unknown)")
    add(
        "--runner", choices=[str(choice) for choice in RunnerChoice], default="auto", help="how tasks are run"
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="the agent's own folder (default: ~/.hivemind/agent/NAME)",
    )
    add("--max-tasks", type=_number(0, MAX_TASKS_LIMIT), default=0, help="most tasks at once")
    add(
        "--warm-sandboxes",
        type=_number(0, MOST_SANDBOXES),
        default=0,
        metavar="N",
        help="keep so many containers ready for the next tasks (with Docker; default: none)",
    )
    add("--memory-gb", type=_number(0, 1 << 20), default=0, help="offer no more memory than this, GiB")
    add("--cpu-score", type=_number(0, 10_000_000), default=0, help="offer no more CPU than this, points")
    add("--grace-seconds", type=float, default=20.0, help="time that running tasks get at a stop")
    add("--port", type=_number(0, 65535), default=0, help="serve WorkerNodeService on this loopback port")
    add("--log-level", choices=_LEVELS, default="INFO")
    _add_trust(parser)
    return parser


def _add_trust(parser: argparse.ArgumentParser) -> None:
    """Whom the agent believes, and who may see what."""
    add = parser.add_argument
    add("--tls", action="store_true", help="TLS to the gateway")
    add("--ca-file", type=Path, metavar="FILE", help="certificates (PEM) that the gateway's is checked with")
    add(
        "--broker-ca-file",
        type=Path,
        metavar="FILE",
        help="certificates (PEM) that the broker's is checked with (default: what the pool says)",
    )
    add(
        "--allow-insecure-plaintext",
        action="store_true",
        help="no TLS though the gateway is another machine: password and code can be read on the way",
    )
    add(
        "--let-strangers-read-this-machine",
        action="store_true",
        help="take everybody's tasks though nothing here keeps them from the files and processes that this "
        "agent can read, its password too (default: such a node runs its owner's tasks only)",
    )


def _number(least: int, most: int) -> type[int]:
    def parse(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return number

    parse.__name__ = "number"
    return parse  # type: ignore[return-value]  # argparse takes any callable


def _password(file: Path | None, environment: Mapping[str, str]) -> str:
    password = file.read_text(encoding="utf-8").rstrip("\r\n") if file else environment.get(PASSWORD_VARIABLE)
    if not password:
        raise InvalidInputError(f"no password: give --password-file or set {PASSWORD_VARIABLE}")
    return password


def _gateways(given: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    words = given or [environment.get(GATEWAY_VARIABLE, "")]
    if not any(words):
        raise InvalidInputError(f"no gateway: give --gateway HOST:PORT or set {GATEWAY_VARIABLE}")
    try:
        return gateway_addresses(words)
    except InvalidInputError as error:
        raise InvalidInputError(f"--gateway: {error}") from error


def _host_name() -> str:
    return socket.gethostname().split(".")[0][:64] or "node"
