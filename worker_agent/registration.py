"""What this start of the agent tells the pool of itself: its facts, and that it is the same start as before.

Of two agents that were started with one node id the later one has the node. The earlier one is cut off
from the broker, asks again, and is told.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodepool.domain.capabilities import ALL as CAPABILITIES
from nodepool.domain.errors import NodePoolError
from nodepool.domain.nodes.fitness import MAX_UNFIT
from nodepool.domain.nodes.node import ENGINE_AWAY
from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.gateway_client import GatewayClient, GatewayStaleError

_INSTANCE_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """What is known before the gateway is asked."""

    node_id: str
    registration: pb.RegisterWorkerNodeRequest
    data_dir: Path
    cores: int
    score_per_core: float
    max_tasks: int
    grace_seconds: float
    owner_only: bool = False  # whatever the pool sends: runs here are kept from nothing
    broker_ca_pem: str = ""  # its owner's own, instead of what the pool says


class ReplacedError(NodePoolError):
    """Another agent has been started with this node's id."""


class Registration:
    """Thread-safe. Calls block while the gateway is away. Raises ReplacedError, and what the link raises."""

    def __init__(self, link: GatewayClient, registration: pb.RegisterWorkerNodeRequest) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._registration = pb.RegisterWorkerNodeRequest()
        self._registration.CopyFrom(registration)
        self._registration.instance = secrets.token_hex(_INSTANCE_BYTES)
        self._registration.capabilities.extend(CAPABILITIES)
        self._docker_status = registration.docker_status

    def enrol(self, give_up: Callable[[], bool]) -> pb.EnrollAgentResponse:
        """Registers before: the pool may have forgotten the node, or think that it has left."""
        with self._lock:
            try:
                self._register(give_up)
                return self._link.enroll(
                    self._registration.node_id, give_up, instance=self._registration.instance
                )
            except GatewayStaleError as error:
                raise ReplacedError(str(error)) from error

    @property
    def node_id(self) -> str:
        return self._registration.node_id

    @property
    def instance(self) -> str:
        """Of this start of the agent."""
        return self._registration.instance

    def begin_unfit(self, problem: str) -> None:
        """Before it is told of for the first time: it gets no work before it is fit."""
        with self._lock:
            self._registration.unfit = problem[:MAX_UNFIT]

    def tell_health(self, problem: str, *, engine_works: bool, give_up: Callable[[], bool]) -> None:
        """What runs tasks here came or went: the node's trust, and whether it gets work, depend on it."""
        with self._lock:
            self._registration.docker_status = self._docker_status if engine_works else ENGINE_AWAY
            self._registration.unfit = problem[:MAX_UNFIT]
            try:
                self._register(give_up)
            except GatewayStaleError as error:
                raise ReplacedError(str(error)) from error

    def _register(self, give_up: Callable[[], bool]) -> None:
        self._link.register(self._registration, give_up)
        self._registration.again = True
