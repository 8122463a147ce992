"""The gateway's wiring: servicers, interceptors, health, reflection and the address, in one server."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import time
from contextlib import suppress
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway import metrics_sources
from gateway.admission import request_limit_sync
from gateway.admission.connections import allow_descriptors, bound_connections
from gateway.admission.message_limits import largest_message
from gateway.admission.open_calls import CallLimits, OpenCalls
from gateway.admission.request_limit_sync import RequestSync
from gateway.auth.access import SERVICES
from gateway.auth.callers import Callers
from gateway.context import Gateway
from gateway.health import BROKER, DATABASE, LOOK_SECONDS, in_words
from gateway.servicers.admin import AdminServicer
from gateway.servicers.interceptors import Gatekeeper
from gateway.servicers.nodes import NodeManagerServicer
from gateway.servicers.tasks import MasterNodeServicer
from gateway.servicers.users import UserServicer
from gateway.servicers.workers import WorkerNodeServicer
from nodepool import watchdog as watchdogs
from nodepool.clock import steady_clock
from nodepool.domain.broker_owner import ForeignBrokerError
from nodepool.domain.errors import NodePoolError
from nodepool.keepalive import grpc_ping_options
from nodepool.metrics.catalogue import Part
from nodepool.metrics.server import MetricsServer, registry_of
from nodepool.protocol import nodepool_pb2_grpc as rpc
from nodepool.settings import Settings
from nodepool.stores.redis import fitness
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.memory_guard import MemoryGuard
from nodepool.watchdog import Watchdog

log = structlog.get_logger(__name__)

GRACE_SECONDS = 3.0
# No call that is served holds its thread for so long.
STUCK_SECONDS = 300.0
# Of grpc.health.v1: this gateway itself, whether or not a dispatcher works. For balancers, and for who starts
# the parts one after the other.
GATEWAY_ALONE = "gateway"
MIN_CLIENT_PING_INTERVAL_MS = 5000
GUARD_SECONDS = 1.0
PRESENCE_SECONDS = 1.0
CONNECTIONS_SECONDS = 1.0
SWEEP_FILES_SECONDS = 600.0
# Beside the lock that a living writer holds: a file is there a moment before its lock.
LEFT_SECONDS = 60.0
MIB = 1 << 20
_NO_COMPRESSION = 1
WINDOW_BYTES = 64 << 10
# A token has 4 KiB at most.
METADATA_BYTES = 8 << 10
IDLE_MS = 600_000
HANDSHAKE_MS = 10_000


class CannotServeError(Exception):
    """The gateway cannot listen; the message is for the operator."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """CannotServeError where tokens and code would travel readable and nobody has said that they may."""
    host = settings.grpc_server_host
    if settings.grpc_tls_cert_file or settings.allow_insecure_plaintext or is_loopback(host):
        return
    raise CannotServeError(
        f"refusing to serve on {host} in plain text: tokens and code could be read on the way. "
        "Set GRPC_TLS_CERT_FILE and GRPC_TLS_KEY_FILE, or, where the network is yours alone, "
        "ALLOW_INSECURE_PLAINTEXT=true",
        exit_code=2,
    )


def server_options(settings: Settings) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", settings.grpc_max_message_mb * MIB),
        ("grpc.max_receive_message_length", largest_message(settings)),
        # A small message may unpack to a large one, and nobody needs it: packages are packed already.
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        # What a client may send ahead on a stream that nobody reads yet, at most; it would grow by itself.
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_concurrent_streams", settings.grpc_max_calls_per_account),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * METADATA_BYTES),
        ("grpc.max_allowed_incoming_connections", settings.grpc_max_connections),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        *grpc_ping_options(settings.grpc_keepalive_seconds, settings.grpc_keepalive_timeout_seconds),
        ("grpc.keepalive_permit_without_calls", 1),
        # The name that gRPC Core gives min_recv_ping_interval_without_data.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_INTERVAL_MS),
        # Two gateways on one port would each get half of the calls, and say nothing.
        ("grpc.so_reuseport", 0),
    ]


def make_server(gateway: Gateway, calls: OpenCalls) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with every service, bound to nothing yet."""
    settings = gateway.settings
    gatekeeper = Gatekeeper(
        settings,
        Callers(gateway.tokens, gateway.standings, gateway.registered, settings.allow_anonymous_reads),
        calls,
        gateway.reader,
        gates=(gateway.limits.gate,),
        pause_after=gateway.limits.pause_after,
    )
    server = grpc.aio.server(interceptors=(gatekeeper,), options=server_options(settings))
    rpc.add_UserServiceServicer_to_server(UserServicer(gateway), server)
    rpc.add_NodeManagerServiceServicer_to_server(NodeManagerServicer(gateway), server)
    rpc.add_MasterNodeServiceServicer_to_server(MasterNodeServicer(gateway), server)
    rpc.add_AdminServiceServicer_to_server(AdminServicer(gateway), server)
    rpc.add_WorkerNodeServiceServicer_to_server(WorkerNodeServicer(gateway), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, healthy


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """The port that the server now has. CannotServeError where it cannot have it."""
    check_exposure(settings)
    host = settings.grpc_server_host
    address = f"[{host}]" if ":" in host and not host.startswith("[") else host
    address = f"{address}:{settings.grpc_server_port}"
    credentials = _credentials(settings)
    try:
        port = (
            server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        )
    except RuntimeError:
        port = 0
    if not port:
        raise CannotServeError(
            f"cannot listen on {address}: the port is taken, or the address is not this machine's. "
            "Stop the program that has it, or set GRPC_SERVER_PORT",
            exit_code=1,
        )
    return port


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if not (settings.grpc_tls_cert_file and settings.grpc_tls_key_file):
        return None
    try:
        certificate = settings.grpc_tls_cert_file.read_bytes()
        key = settings.grpc_tls_key_file.read_bytes()
    except OSError as error:
        raise CannotServeError(f"cannot read the TLS certificate or its key: {error}", exit_code=2) from error
    return grpc.ssl_server_credentials([(key, certificate)])


async def _be_present(gateway: Gateway) -> None:
    """Tell the sweep that nodes can begin their attempts; where no gateway serves, it does not blame them.

    And know of this gateway's own outages: for what ends by them nobody is blamed.
    """
    liveness = Liveness(gateway.redis)
    while True:
        try:
            await gateway.run(liveness.say_gateway_serves)
        except NodePoolError:
            if gateway.outages.failed():
                log.warning("an outage began, perhaps: Redis does not answer", action="outage.began")
        else:
            outage = gateway.outages.worked(steady_clock())
            if outage is not None:
                log.warning(
                    "an outage of this gateway ended",
                    action="outage.ended",
                    seconds=round(outage.seconds, 1),
                    cause=outage.cause,
                )
        await asyncio.sleep(PRESENCE_SECONDS)


async def _tell_health(gateway: Gateway, healthy: health.aio.HealthServicer) -> None:
    """What grpc.health.v1 says, as the pool is."""
    told: dict[str, int] = {}
    said = ""
    while True:
        problems = gateway.health.problems()
        own = problems[DATABASE] or problems[BROKER]
        states = dict.fromkeys(("", *SERVICES), _state(not any(problems.values())))
        states[GATEWAY_ALONE] = _state(not own)
        for service, state in states.items():
            if told.get(service) != state:
                await healthy.set(service, state)
        told = states
        words = in_words(problems)
        if bool(words) != bool(said):
            if words:
                log.error("the pool does not work", action="pool.outage_began", reason=words)
            else:
                log.warning("the pool works again", action="pool.outage_ended")
        said = words
        await asyncio.sleep(LOOK_SECONDS)


async def _say_alive(gateway: Gateway, watchdog: Watchdog) -> None:
    """As long as the event loop turns, and the threads for what is cheap come to an end."""
    watchdog.ready()
    served_at = time.monotonic()
    probe: asyncio.Future[None] | None = None
    while True:
        if probe is None or probe.done():
            served_at = time.monotonic()
            probe = asyncio.ensure_future(gateway.run(_nothing))
        if time.monotonic() - served_at < STUCK_SECONDS:
            watchdog.alive()
        await asyncio.sleep(watchdogs.PERIOD_SECONDS)


def _nothing() -> None:
    """Shows that a thread is to be had."""


def _state(works: bool) -> int:  # noqa: FBT001 - it has one meaning
    states = health_pb2.HealthCheckResponse
    return int(states.SERVING if works else states.NOT_SERVING)


async def _sweep_files(gateway: Gateway) -> None:
    """What writers of this store left when they died; at the start, and ever after."""
    while True:
        with suppress(NodePoolError):
            removed = await gateway.run(gateway.files.sweep_temporary, LEFT_SECONDS, gateway.clock())
            if removed:
                log.info("files of writers that died are removed", action="files.swept", removed=removed)
        await asyncio.sleep(SWEEP_FILES_SECONDS)


async def _guard_broker(gateway: Gateway, *, is_fit: bool) -> None:
    """Output and hints give way before the broker is full; every gateway looks by itself."""
    guard = MemoryGuard(gateway.redis, gateway.outputs, gateway.settings.max_live_output_mb << 20)
    said = ""
    while True:
        try:
            # One that was away at the start is looked at now.
            is_fit = is_fit or await gateway.run(fitness.check, gateway.redis, gateway.settings)
            await gateway.run(gateway.own_broker.check)
            await gateway.run(guard.look)
        except (fitness.UnfitBrokerError, ForeignBrokerError) as error:
            if str(error) != said:
                log.error("the broker cannot be used", action="broker.unfit", why=str(error))
            said = str(error)
        except NodePoolError:
            pass  # who needs the broker says so
        await asyncio.sleep(GUARD_SECONDS)


async def _share_limits(gateway: Gateway) -> None:
    """Several gateways keep one bound on requests."""
    shared = RequestSync(gateway.redis, gateway.limits)
    while True:
        await asyncio.sleep(request_limit_sync.PERIOD_SECONDS)
        with suppress(NodePoolError):
            await gateway.run(shared.sync)


async def _bound_connections(gateway: Gateway, calls: OpenCalls, port: int) -> None:
    """End what an address has of connections over its bound: gRPC bounds only how many there are in all."""
    most = gateway.settings.grpc_max_connections_per_address
    while True:
        await asyncio.sleep(CONNECTIONS_SECONDS)
        ended = bound_connections(port, most, lambda peer: calls.count("peer", peer))
        if ended:
            log.warning("addresses had too many connections", action="gateway.connections_ended", ended=ended)


async def serve(gateway: Gateway, watchdog: Watchdog, *, broker_is_fit: bool = False) -> None:
    """Serves until SIGTERM or SIGINT. CannotServeError where it cannot begin.

    `broker_is_fit`: it has been looked at.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    allow_descriptors(gateway.settings.grpc_max_connections)
    calls = OpenCalls(CallLimits.from_settings(gateway.settings))
    server, healthy = make_server(gateway, calls)
    gateway.reader.port = port = bind(server, gateway.settings)
    gateway.events.start(loop)
    await server.start()
    gateway.health.start()
    metrics = MetricsServer(
        gateway.settings.metrics_host,
        gateway.settings.gateway_metrics_port,
        registry_of(Part.GATEWAY, metrics_sources.sampler(gateway, calls)),
    )
    metrics.start()
    besides = [
        asyncio.create_task(_tell_health(gateway, healthy)),
        asyncio.create_task(_say_alive(gateway, watchdog)),
        asyncio.create_task(_be_present(gateway)),
        asyncio.create_task(_bound_connections(gateway, calls, port)),
        asyncio.create_task(_sweep_files(gateway)),
        asyncio.create_task(_share_limits(gateway)),
        asyncio.create_task(_guard_broker(gateway, is_fit=broker_is_fit)),
    ]
    log.info(
        "gateway is serving",
        action="gateway.serving",
        host=gateway.settings.grpc_server_host,
        port=port,
        tls=bool(gateway.settings.grpc_tls_cert_file),
    )
    try:
        await stopping.wait()
        log.info("gateway is stopping", action="gateway.stopping")
        watchdog.stopping()
        await healthy.enter_graceful_shutdown()
    finally:
        metrics.close()
        for task in besides:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await server.stop(GRACE_SECONDS)
