"""The agent's process. Settings are read, and signals caught, only here."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import structlog

from nodepool import hardening
from nodepool.domain.broker_address import check_authority
from nodepool.domain.errors import InvalidInputError, NodePoolError
from nodepool.domain.nodes.isolation import keeps_strangers_out
from nodepool.domain.nodes.node import default_max_tasks
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.starting import DISTRIBUTION
from nodepool.watchdog import Watchdog
from worker_agent import last_resort
from worker_agent.agent import Agent
from worker_agent.capacity import Hardware, probe_hardware
from worker_agent.gateway_client import GatewayClient, GatewayOptions
from worker_agent.logs import set_up_logging
from worker_agent.options import AgentOptions, RunnerChoice, parse_options
from worker_agent.registration import NodeSetup, ReplacedError
from worker_agent.runners.base import Runner, RunRefusedError
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.process import ProcessRunner
from worker_agent.runners.warm_pool import WarmOptions
from worker_agent.worker_service import LocalNode, WorkerService, read_or_make_secret, serve

log = structlog.get_logger(__name__)

EXIT_REFUSED = 1
# For whoever starts agents again: not this one, it would take the node back.
EXIT_REPLACED = 3


def main() -> int:
    hardening.harden()
    hardening.begin(os.environ)
    options = parse_options(sys.argv[1:], os.environ)
    watchdog = Watchdog.of(os.environ)
    # Celery would prefer some of them to what it is configured with, and the pool's broker user is not ours.
    hardening.forget_secrets()
    set_up_logging(options.log_level, options.node_id)
    try:
        return _run(options, watchdog)
    except ReplacedError as error:
        log.error("this agent has been replaced", action="agent.ended", reason=str(error))
        return EXIT_REPLACED
    except (NodePoolError, OSError) as error:
        log.error("the agent cannot run", action="agent.refused", reason=str(error))
        return EXIT_REFUSED


def _run(options: AgentOptions, watchdog: Watchdog) -> int:
    lock = _own_data_dir(options.data_dir)
    link = GatewayClient(
        GatewayOptions(
            addresses=options.gateways,
            username=options.username,
            password=options.password,
            tls=options.tls,
            ca_file=options.ca_file,
            allow_insecure_plaintext=options.allow_insecure_plaintext,
        )
    )
    runner = _choose_runner(options)
    hardware = probe_hardware()
    _say_whose_tasks(options, runner)
    agent = Agent(_setup(options, hardware, runner), link, runner, lambda: _say_online(options.node_id))
    agent.on_turn = watchdog.alive
    agent.on_leaving = last_resort.end_within
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: agent.ask_to_stop())
    end_service = _serve_owner(options, agent, runner) if options.port else None
    watchdog.ready()
    try:
        agent.run()
    finally:
        watchdog.stopping()
        if end_service is not None:
            end_service()
        agent.close()
        os.close(lock)
        last_resort.ended()
    log.info("the agent has ended", action="agent.ended")
    return 0


def _serve_owner(options: AgentOptions, agent: Agent, runner: Runner) -> Callable[[], None]:
    """Returns what ends the service."""
    node = LocalNode(
        node_id=options.node_id,
        runner=runner,
        runs_dir=options.data_dir / "runs",
        unpacker=agent.unpacker,
        discard=agent.trash.throw,
        terms=agent.terms,
        find=agent.attempts_of,
        stop=agent.stop_attempt,
    )
    service = WorkerService(node, read_or_make_secret(options.data_dir))
    try:
        server, _ = serve(service, options.port)
    except RuntimeError as error:
        raise NodePoolError(f"port {options.port} cannot be served: {error}") from error

    def end() -> None:
        service.close()
        server.stop(None)

    return end


def _own_data_dir(data_dir: Path) -> int:
    """A lock on the folder: two agents on one journal would end each other's runs."""
    # Tasks' users go through to their own folders; what is secret in it has its own mode.
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise NodePoolError(f"another agent uses {data_dir}; give this one another --data-dir") from error
    return descriptor


def _choose_runner(options: AgentOptions) -> Runner:
    if options.runner is not RunnerChoice.PROCESS:
        try:
            return DockerRunner(
                options.node_id, WarmOptions(options.data_dir / "warm", options.warm_sandboxes)
            )
        except RunRefusedError as error:
            if options.runner is RunnerChoice.DOCKER:
                raise
            log.warning(
                "no containers here, tasks run as processes", action="runner.process", reason=str(error)
            )
    return ProcessRunner(options.data_dir / "runner")


def _say_whose_tasks(options: AgentOptions, runner: Runner) -> None:
    level = runner.isolation
    if keeps_strangers_out(level):
        log.info(
            "runs are kept from this machine: everybody's tasks run here", action="isolation", level=level
        )
    elif options.accepts_strangers:
        log.warning(
            "everybody's tasks run here, and can read whatever this agent can: its owner wants it so",
            action="isolation",
            level=level,
        )
    else:
        log.warning(
            "runs here could read whatever this agent can, so it takes the tasks of its owner only; install "
            "bubblewrap or Docker to take others'",
            action="isolation",
            level=level,
            owner=options.username,
        )


def _broker_authority(file: Path | None) -> str:
    name = "--broker-ca-file"
    if file is None:
        return ""
    try:
        return check_authority(file.read_text(encoding="utf-8"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{name}: {file} cannot be read: {error}") from error


def _setup(options: AgentOptions, hardware: Hardware, runner: Runner) -> NodeSetup:
    """Overrides only take away: a node does not promise what it does not have."""
    score = min(options.cpu_score or hardware.cpu_score, hardware.cpu_score)
    memory_gb = min(options.memory_gb or hardware.memory_gb, hardware.memory_gb)
    max_tasks = options.max_tasks or default_max_tasks(hardware.cpu_cores)
    # Containers are what the GPU is handed to.
    with_gpu = runner.name == "docker"
    return NodeSetup(
        node_id=options.node_id,
        registration=pb.RegisterWorkerNodeRequest(
            node_id=options.node_id,
            hostname=socket.gethostname(),
            cpu_cores=hardware.cpu_cores,
            memory_gb=memory_gb,
            cpu_score=score,
            gpu_score=hardware.gpu.score if with_gpu else 0,
            gpu_memory_gb=hardware.gpu.memory_gb if with_gpu else 0,
            gpu_name=hardware.gpu.name if with_gpu else "",
            location=options.location,
            port=options.port,
            docker_status="running" if runner.name == "docker" else "unavailable",
            kind="agent",
            max_tasks=max_tasks,
            agent_version=metadata.version(DISTRIBUTION),
            isolation=runner.isolation,
            accepts_strangers_without_isolation=options.accepts_strangers,
        ),
        data_dir=options.data_dir,
        cores=hardware.cpu_cores,
        score_per_core=max(1.0, hardware.cpu_score / hardware.cpu_cores),
        max_tasks=max_tasks,
        broker_ca_pem=_broker_authority(options.broker_ca_file),
        owner_only=not (keeps_strangers_out(runner.isolation) or options.accepts_strangers),
        grace_seconds=max(0.0, options.grace_seconds) if math.isfinite(options.grace_seconds) else 0.0,
    )


def _say_online(node_id: str) -> None:
    print(f"online {node_id}", flush=True)
