"""What `hivemind up` runs: which parts, with which arguments and environment.

Starts nothing and reads no files; knows the parts' command lines, not their code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from celeryconfig import task_queues
from local_pool import agent_account as account
from local_pool.supervisor import PoolPart
from nodepool.settings import Settings

OPERATOR = "operator"
FLOWER_USER = "flower"
FLOWER_LOGIN = "FLOWER_BASIC_AUTH"
DISPATCHER_PREFIX = "dispatcher@"
STRANGERS_OPTION = "--let-strangers-read-this-machine"
LOOPBACK = "127.0.0.1"
WILDCARDS = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - recognised, not bound
_REDIS_FIELDS = frozenset({"redis_url", "redis_host", "redis_port", "redis_db"})
DATABASE_FIELDS = frozenset({"database_url", "db_path"})
# The part of a machine's memory that several agents share between them; the rest is the pool's own.
SHARED_MEMORY = 0.75
SCORE_OF_A_CORE = 1000
DISPATCHER_THREADS = 4

# In this order they start, and in the reverse they stop. The broker is stage 0.
GATEWAY_STAGE, DISPATCHER_STAGE, FLOWER_STAGE, AGENT_STAGE = 1, 2, 3, 4
GATEWAY_STOP_SECONDS = 15.0
DISPATCHER_STOP_SECONDS = 15.0
FLOWER_STOP_SECONDS = 5.0
AGENT_STOP_SECONDS = 45.0
# Gateway, dispatcher and agents say every second that they work; Valkey and Flower are asked every other one.
SILENT_SECONDS = 20.0
# Their end costs more than that of the others: runs, a window that shows much at once.
AGENT_SILENT_SECONDS = FLOWER_SILENT_SECONDS = 60.0
# Another agent has the node (worker_agent/process.py).
AGENT_REPLACED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The command's options, ports chosen."""

    data_dir: Path
    grpc_port: int
    flower_port: int
    agents: int
    runner: str
    flower: bool
    operator: str = OPERATOR  # the pool's admin
    account: str = account.NAME  # whose the agents are
    accept_strangers: bool = False  # also where nothing keeps their tasks from this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Made on the first start and kept in the data directory."""

    jwt: str
    storage: str
    operator: str
    flower: str


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """What this machine has, to be split between its agents."""

    cores: int
    memory_bytes: int


def wants_embedded_broker(settings: Settings) -> bool:
    """Whether no Redis is named anywhere: not in the environment and not in `.env`."""
    return not (_REDIS_FIELDS & settings.model_fields_set)


def gateway_address(settings: Settings, options: PoolOptions) -> str:
    """Where this machine's own clients reach the gateway."""
    host = LOOPBACK if settings.grpc_server_host in WILDCARDS else settings.grpc_server_host
    return f"{host}:{options.grpc_port}"


def pool_environment(
    base: Mapping[str, str], settings: Settings, options: PoolOptions, secrets: Secrets, broker_url: str
) -> dict[str, str]:
    """The environment of gateway, dispatcher and Flower.

    What the operator has set stays; the rest is in the data directory.
    """
    given = settings.model_fields_set
    ours = {
        "GRPC_SERVER_PORT": str(options.grpc_port),
        "REDIS_URL": broker_url,
        "CELERY_BROKER_URL": broker_url,
        "PYTHONUNBUFFERED": "1",
    }
    if not DATABASE_FIELDS & given:
        ours["DB_PATH"] = str(options.data_dir / "pool.db")
    if "jwt_secret_key" not in given:
        ours["JWT_SECRET_KEY"] = secrets.jwt
    if "task_storage_path" not in given:
        ours["TASK_STORAGE_PATH"] = str(options.data_dir / "storage")
        # A storage that was there before has the key that its gateway keeps beside it.
        if "storage_key" not in given:
            ours["STORAGE_KEY"] = secrets.storage
    return {**base, **ours}


def gateway_environment(
    environment: Mapping[str, str], options: PoolOptions, secrets: Secrets
) -> dict[str, str]:
    """The pool's, and the operator's account, which the gateway makes an admin."""
    return {**environment, "ADMIN_USERNAME": options.operator, "ADMIN_PASSWORD": secrets.operator}


def agent_environment(base: Mapping[str, str], password: str) -> dict[str, str]:
    """An agent gets none of the pool's settings: it is told all it needs when it enrols."""
    kept = {name: value for name, value in base.items() if not _is_of_the_pool(name)}
    return {**kept, "HIVEMIND_PASSWORD": password, "PYTHONUNBUFFERED": "1"}


def _is_of_the_pool(name: str) -> bool:
    return (
        name.lower() in Settings.model_fields
        or name.startswith(("FLOWER_", "CELERY_"))
        or name == "HIVEMIND_TOKEN"
    )


def gateway_part(environment: Mapping[str, str]) -> PoolPart:
    return PoolPart(
        name="gateway",
        argv=_python("gateway"),
        env=environment,
        stage=GATEWAY_STAGE,
        stop_seconds=GATEWAY_STOP_SECONDS,
        silent_seconds=SILENT_SECONDS,
    )


def dispatcher_part(environment: Mapping[str, str]) -> PoolPart:
    # Served in this order: high before normal before low.
    queues = ",".join(queue.name for queue in task_queues)
    argv = (
        *_python("celery"), "-A", "dispatcher", "worker", "-P", "threads", "-c", str(DISPATCHER_THREADS),
        "-Q", queues, "-n", f"{DISPATCHER_PREFIX}%h", "--without-gossip", "--without-mingle", "-l", "INFO",
    )  # fmt: skip
    return PoolPart(
        name="dispatcher",
        argv=argv,
        env=environment,
        stage=DISPATCHER_STAGE,
        stop_seconds=DISPATCHER_STOP_SECONDS,
        silent_seconds=SILENT_SECONDS,
    )


def flower_login(environment: Mapping[str, str], secrets: Secrets) -> str:
    """USER:PASSWORD, the operator's own where the environment has one (the first of several)."""
    return (environment.get(FLOWER_LOGIN) or f"{FLOWER_USER}:{secrets.flower}").split(",")[0]


def flower_part(
    environment: Mapping[str, str], options: PoolOptions, secrets: Secrets, answers: Callable[[], bool]
) -> PoolPart:
    # The operator's own login wins.
    login = environment.get(FLOWER_LOGIN) or flower_login(environment, secrets)
    return PoolPart(
        name="flower",
        argv=(*_python("dispatcher.flower"), "--address", LOOPBACK, "--port", str(options.flower_port)),
        env={**environment, FLOWER_LOGIN: login},
        stage=FLOWER_STAGE,
        stop_seconds=FLOWER_STOP_SECONDS,
        silent_seconds=FLOWER_SILENT_SECONDS,
        answers=answers,
    )


def agent_name(number: int) -> str:
    return f"agent-{number}"


def node_id(number: int, owner: str = account.NAME) -> str:
    return f"{owner}/{agent_name(number)}"


def worker_name(number: int, owner: str = account.NAME) -> str:
    """The agent's name as a Celery worker."""
    return f"agent@{node_id(number, owner)}"


def agent_part(
    number: int,
    environment: Mapping[str, str],
    settings: Settings,
    options: PoolOptions,
    machine: LocalMachine,
) -> PoolPart:
    name = agent_name(number)
    address = gateway_address(settings, options)
    argv = [
        *_python("worker_agent"), "--gateway", address, "--username", options.account, "--node", name,
        "--runner", options.runner, "--data-dir", str(options.data_dir / "agents" / name),
    ]  # fmt: skip
    if settings.grpc_tls_cert_file is not None:
        argv += ["--ca-file", str(settings.grpc_tls_cert_file.resolve())]
    elif settings.allow_insecure_plaintext:
        argv += ["--allow-insecure-plaintext"]
    if options.accept_strangers:
        argv += [STRANGERS_OPTION]
    if options.agents > 1:
        share = memory_share_gb(machine, options.agents)
        score = max(1, machine.cores * SCORE_OF_A_CORE // options.agents)
        argv += ["--memory-gb", str(share), "--cpu-score", str(score)]
    return PoolPart(
        name=name,
        argv=tuple(argv),
        env=environment,
        stage=AGENT_STAGE,
        stop_seconds=AGENT_STOP_SECONDS,
        silent_seconds=AGENT_SILENT_SECONDS,
        final_codes=frozenset({AGENT_REPLACED}),
    )


def memory_share_gb(machine: LocalMachine, agents: int) -> int:
    """What each of several agents may give to tasks, GiB; at least one."""
    return max(1, int(machine.memory_bytes * SHARED_MEMORY / agents) >> 30)


def _python(module: str) -> tuple[str, ...]:
    # -P: a folder that happens to be called `client` in the working directory is not ours.
    return (sys.executable, "-P", "-m", module)
