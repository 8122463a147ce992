"""Lines to the gateway that are there but dead: both ends notice, and whoever calls goes on with another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from hivemind.channel import Endpoint, GatewayChannel
from hivemind.errors import TimedOutError, UnreachableError
from nodepool import keepalive
from nodepool.gateway_lines import MOST_LINES
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.scripted_server import Scripted, state
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from worker_agent import gateway_client
from worker_agent.gateway_client import GatewayClient, GatewayOptions

# Far longer than a line that is noticed to be dead holds anybody up.
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "_GRPC_PING_SECONDS", 1.0)
    monkeypatch.setattr(keepalive, "_GRPC_PONG_SECONDS", 1.0)


@pytest.fixture
def gateway() -> Iterator[Scripted]:
    scripted = Scripted()
    scripted.answers("Login", pb.LoginResponse(success=True, token="token"))
    scripted.answers("HealthCheck", pb.HealthCheckResponse(healthy=True))
    scripted.answers("AppendOutput", pb.AppendOutputResponse())
    scripted.start(options=keepalive.grpc_ping_options(1.0, 1.0))
    yield scripted
    scripted.stop()


@pytest.fixture
def line(gateway: Scripted) -> Iterator[TcpProxy]:
    with TcpProxy(gateway.port) as proxy:
        yield proxy


@pytest.fixture
def client(line: TcpProxy) -> Iterator[GatewayChannel]:
    with GatewayChannel(Endpoint(address=line.address), deadline_seconds=PATIENCE_SECONDS) as made:
        yield made


@pytest.fixture
def agent(line: TcpProxy) -> Iterator[GatewayClient]:
    options = GatewayOptions(addresses=(line.address,), username="ada", password="secret")
    made = GatewayClient(options)
    yield made
    made.close()


def asks_for_health(client: GatewayChannel) -> bool:
    return client.call(client.nodes.HealthCheck, pb.HealthCheckRequest()).healthy


def test_both_ends_of_a_dead_line_notice_though_nothing_is_said_on_it(
    gateway: Scripted, client: GatewayChannel, line: TcpProxy
) -> None:
    left, leave = threading.Event(), threading.Event()

    def watch(_request: pb.WatchTaskRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchTaskResponse]:
        context.add_callback(left.set)
        yield state("RUNNING")
        leave.wait(PATIENCE_SECONDS)

    gateway.on("WatchTask", watch)
    try:
        events = client.stream(client.tasks.WatchTask, pb.WatchTaskRequest(task_id="t"))
        next(events)
        line.kill_lines()
        with pytest.raises(UnreachableError):
            next(events)
        assert left.wait(PATIENCE_SECONDS)
    finally:
        leave.set()


def test_a_call_on_a_dead_line_is_answered_on_another(client: GatewayChannel, line: TcpProxy) -> None:
    assert asks_for_health(client)
    line.kill_lines()
    assert asks_for_health(client)
    assert line.accepted == 2


def test_an_agents_call_on_a_dead_line_is_answered_on_another(agent: GatewayClient, line: TcpProxy) -> None:
    agent.log_in()
    line.kill_lines()
    agent.append_output(pb.AppendOutputRequest(), lambda: False)
    assert line.accepted == 2


def test_a_gateway_that_connects_slowly_is_reached(gateway: Scripted, line: TcpProxy) -> None:
    """More than the pause before the next try: who gives a try no longer than that never gets through."""
    line.delay_seconds = 0.4
    with GatewayChannel(Endpoint(address=line.address), deadline_seconds=PATIENCE_SECONDS) as client:
        assert asks_for_health(client)
    assert line.accepted == 1


def hold(gateway: Scripted, method: str, answer: object) -> threading.Event:
    """The first call is answered when the event is set: the line answers pings, what is behind it hangs."""
    held, free = threading.Event(), threading.Event()

    def handler(_request: object, _context: grpc.ServicerContext) -> object:
        if not held.is_set():
            held.set()
            free.wait(PATIENCE_SECONDS)
        return answer

    gateway.on(method, handler)
    return free


def test_after_a_deadline_the_next_call_has_another_line(
    gateway: Scripted, client: GatewayChannel, line: TcpProxy
) -> None:
    free = hold(gateway, "HealthCheck", pb.HealthCheckResponse(healthy=True))
    with pytest.raises(TimedOutError):
        client.call(client.nodes.HealthCheck, pb.HealthCheckRequest(), deadline_seconds=0.5)
    assert asks_for_health(client)
    assert line.accepted == 2
    free.set()


def test_an_agent_has_another_line_after_a_deadline(
    gateway: Scripted, agent: GatewayClient, line: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_client, "_CALL_SECONDS", 1.0)
    agent.log_in()
    free = hold(gateway, "AppendOutput", pb.AppendOutputResponse())
    agent.append_output(pb.AppendOutputRequest(), lambda: False)
    assert line.accepted == 2
    free.set()


def test_one_slow_call_among_answered_ones_costs_nobody_the_line(
    gateway: Scripted, client: GatewayChannel, line: TcpProxy
) -> None:
    asks_for_health(client)
    free = hold(gateway, "GetBalance", pb.GetBalanceResponse())

    def slow() -> None:
        with pytest.raises(TimedOutError):
            client.call(client.users.GetBalance, pb.GetBalanceRequest(), deadline_seconds=2.0)

    with ThreadPoolExecutor(1) as pool:
        called = pool.submit(slow)
        wait_until(lambda: asks_for_health(client) and called.done(), "the slow call has ended", period=0.2)
        called.result()
    assert asks_for_health(client)
    assert line.accepted == 1
    free.set()


def test_older_lines_are_closed_when_there_are_many(
    gateway: Scripted, client: GatewayChannel, line: TcpProxy
) -> None:
    free = threading.Event()
    gateway.on("HealthCheck", lambda *_: free.wait(PATIENCE_SECONDS) and pb.HealthCheckResponse())
    try:
        for _ in range(MOST_LINES + 1):
            with pytest.raises(TimedOutError):
                client.call(client.nodes.HealthCheck, pb.HealthCheckRequest(), deadline_seconds=0.3)
        assert len(client.lines._lines) == MOST_LINES
    finally:
        free.set()
