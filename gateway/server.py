"""The gateway's wiring: servicers, interceptors, health, reflection and the address, in one server."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway import listening, metrics_sources
from gateway.admission import request_limit_sync
from gateway.admission.connections import allow_descriptors, bound_connections
from gateway.admission.open_calls import CallLimits, OpenCalls
from gateway.admission.request_limit_sync import RequestSync
from gateway.auth.access import SERVICES
from gateway.auth.callers import Callers
from gateway.context import Gateway
from gateway.health import BROKER, DATABASE, LOOK_SECONDS
from gateway.proxies.proxy_listener import ProxyListener
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
from nodepool.domain.limit_names import LimitName
from nodepool.domain.outages import OutageCause
from nodepool.events.catalogue import LimitHit
from nodepool.events.outages import OutageTeller
from nodepool.events.telling import tell
from nodepool.metrics.catalogue import Part
from nodepool.metrics.server import MetricsServer, registry_of
from nodepool.protocol import nodepool_pb2_grpc as rpc
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
GUARD_SECONDS = 1.0
PRESENCE_SECONDS = 1.0
CONNECTIONS_SECONDS = 1.0
SWEEP_FILES_SECONDS = 600.0
# Beside the lock that a living writer holds: a file is there a moment before its lock.
LEFT_SECONDS = 60.0


def make_server(gateway: Gateway, calls: OpenCalls) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with every service, bound to nothing yet."""
    settings = gateway.settings
    gatekeeper = Gatekeeper(
        settings,
        Callers(gateway.tokens, gateway.standings, gateway.registered, settings.allow_anonymous_reads),
        calls,
        gateway.reader,
        gateway.addresses,
        gates=(gateway.limits.gate,),
        pause_after=gateway.limits.pause_after,
    )
    server = grpc.aio.server(interceptors=(gatekeeper,), options=listening.server_options(settings))
    rpc.add_UserServiceServicer_to_server(UserServicer(gateway), server)
    rpc.add_NodeManagerServiceServicer_to_server(NodeManagerServicer(gateway), server)
    rpc.add_MasterNodeServiceServicer_to_server(MasterNodeServicer(gateway), server)
    rpc.add_AdminServiceServicer_to_server(AdminServicer(gateway), server)
    rpc.add_WorkerNodeServiceServicer_to_server(WorkerNodeServicer(gateway), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return server, healthy


async def _be_present(gateway: Gateway) -> None:
    """Tell the sweep that nodes can begin their attempts; where no gateway serves, it does not blame them.

    And know of this gateway's own outages: for what ends by them nobody is blamed.
    """
    liveness = Liveness(gateway.redis)
    while True:
        try:
            await gateway.run(liveness.say_gateway_serves)
        except NodePoolError:
            gateway.outages.failed()
        else:
            outage = gateway.outages.worked(steady_clock())
            if outage is not None and outage.cause is OutageCause.STOOD_STILL:
                OutageTeller(Part.GATEWAY).stood_still(outage.seconds)
        await asyncio.sleep(PRESENCE_SECONDS)


async def _tell_health(gateway: Gateway, healthy: health.aio.HealthServicer) -> None:
    """What grpc.health.v1 says, as the pool is."""
    told: dict[str, int] = {}
    outages = OutageTeller(Part.GATEWAY)
    while not gateway.health.is_leaving:
        problems = gateway.health.problems()
        outages.see(problems, time.monotonic())
        own = problems[DATABASE] or problems[BROKER]
        states = dict.fromkeys(("", *SERVICES), _state(not any(problems.values())))
        states[GATEWAY_ALONE] = _state(not own)
        for service, state in states.items():
            if told.get(service) != state:
                await healthy.set(service, state)
        told = states
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


async def _bound_connections(gateway: Gateway, calls: OpenCalls) -> None:
    """End what an address has of connections over its bound: gRPC bounds only how many there are in all."""
    most = gateway.settings.grpc_max_connections_per_address
    while True:
        await asyncio.sleep(CONNECTIONS_SECONDS)
        ended = bound_connections(
            gateway.reader.ports, most, lambda peer: calls.count("peer", peer), gateway.addresses.bounded
        )
        for address in ended:
            tell(LimitHit(limit=LimitName.CONNECTIONS, user="", address=address, method=""))


async def _listen_for_balancers(gateway: Gateway, server: grpc.aio.Server) -> ProxyListener | None:
    settings = gateway.settings
    if not settings.proxy_protocol_port:
        return None
    port = listening.bind_inner(server, settings)
    gateway.reader.ports = (*gateway.reader.ports, port)
    proxied = ProxyListener(
        settings.trusted_proxy_networks,
        gateway.addresses,
        (listening.LOOPBACK, port),
        settings.grpc_max_connections,
    )
    await proxied.start(listening.proxy_socket(settings))
    return proxied


async def _drain(gateway: Gateway, healthy: health.aio.HealthServicer, hurry: asyncio.Event) -> None:
    """Balancers hear that this gateway stops, and send new connections elsewhere; until then it serves."""
    gateway.health.leave()
    await healthy.enter_graceful_shutdown()
    with suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), gateway.settings.drain_seconds)


async def serve(gateway: Gateway, watchdog: Watchdog, *, broker_is_fit: bool = False) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the wait for balancers.

    CannotServeError where it cannot begin. `broker_is_fit`: it has been looked at.
    """
    stopping, hurry = _on_signals()
    settings = gateway.settings
    allow_descriptors(settings)
    calls = OpenCalls(CallLimits.from_settings(settings))
    server, healthy = make_server(gateway, calls)
    port = listening.bind(server, settings)
    gateway.reader.ports = (port,)
    proxied = await _listen_for_balancers(gateway, server)
    gateway.events.start(asyncio.get_running_loop())
    await server.start()
    gateway.health.start()
    sampler = metrics_sources.sampler(gateway, calls)
    metrics = MetricsServer(
        settings.metrics_host, settings.gateway_metrics_port, registry_of(Part.GATEWAY, sampler)
    )
    metrics.start()
    besides = [
        asyncio.create_task(_tell_health(gateway, healthy)),
        asyncio.create_task(_say_alive(gateway, watchdog)),
        asyncio.create_task(_be_present(gateway)),
        asyncio.create_task(_bound_connections(gateway, calls)),
        asyncio.create_task(_sweep_files(gateway)),
        asyncio.create_task(_share_limits(gateway)),
        asyncio.create_task(_guard_broker(gateway, is_fit=broker_is_fit)),
    ]
    tls = bool(settings.grpc_tls_cert_file)
    log.info(
        "gateway is serving", action="gateway.serving", host=settings.grpc_server_host, port=port, tls=tls
    )
    try:
        await stopping.wait()
        log.info("gateway is stopping", action="gateway.stopping")
        watchdog.stopping()
        await _drain(gateway, healthy, hurry)
    finally:
        metrics.close()
        for task in besides:
            task.cancel()
        if proxied is not None:
            proxied.stop_listening()
        with suppress(asyncio.CancelledError):
            await server.stop(max(GRACE_SECONDS, settings.drain_seconds))
        if proxied is not None:
            proxied.close()


def _on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first SIGTERM or SIGINT, and by the second."""
    first, second = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (second if first.is_set() else first).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    return first, second
