"""A gateway that is added gets its share, one that is stopped is left, and no call is broken by it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from hivemind.sdk import NodePoolClient
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account, Stubs, register
from tests.support.balanced import BalancedGateways, Way
from tests.support.scrapes import scrape
from tests.support.tasks import script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

CLIENTS = 6
# The drain is ended by hand, once the balancer knows.
SETTINGS = {
    "NEWCOMER_BALANCE_CPT": "1000",
    "GRPC_CONNECTION_AGE_SECONDS": "1",
    "GRPC_CONNECTION_GRACE_SECONDS": "1",
    "DRAIN_SECONDS": "200",
}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def _balanced(way: Way, folder: Path) -> Iterator[BalancedGateways]:
    """The first gateway serves, the second is not there yet."""
    valkey = TestValkey(folder / "valkey")
    valkey.start()
    with ExitStack() as stack:
        stack.callback(valkey.close)
        # As the documents say for each.
        aged = SETTINGS if way.is_tcp else {**SETTINGS, "GRPC_CONNECTION_AGE_SECONDS": "0"}
        made = BalancedGateways(folder, valkey, way, **aged)
        stack.callback(made.close)
        made.start(0)
        yield made


class Callers:
    """Clients that each make calls over one channel, one after the other, without trying any again."""

    def __init__(self, pool: BalancedGateways) -> None:
        self._pool = pool
        self._over = threading.Event()
        self.errors: list[str] = []
        self.calls = 0
        self._channels = [pool.channel() for _ in range(CLIENTS)]
        self.someone: Account = register(Stubs(self._channels[0]), "someone", "a good password")
        self._threads = [threading.Thread(target=self._call, args=(it,)) for it in self._channels]

    def _call(self, channel: grpc.Channel) -> None:
        stubs = Stubs(channel)
        while not self._over.wait(0.02):
            try:
                stubs.users.GetBalance(
                    pb.GetBalanceRequest(), metadata=self.someone.metadata, timeout=CALL_SECONDS
                )
            except grpc.RpcError as error:
                self.errors.append(str(error))
            self.calls += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS)
        for channel in self._channels:
            channel.close()


def _balances(pool: BalancedGateways, number: int) -> float:
    """Calls of these clients that the gateway has answered."""
    port = int(pool.gateways[number].env["GATEWAY_METRICS_PORT"])
    return scrape(port).some("hivemind_gateway_rpcs_total", method="/nodepool.UserService/GetBalance")


def _has_no_calls(pool: BalancedGateways, left: int, other: int) -> bool:
    """While the other one had some."""
    before, others = _balances(pool, left), _balances(pool, other)
    wait_until(lambda: _balances(pool, other) > others + 30, "the clients go on calling", 60)
    return _balances(pool, left) == before


@pytest.mark.parametrize("way", [Way.TCP, Way.HTTP2])
def test_a_gateway_that_is_added_gets_its_share_and_one_that_stops_is_left(way: Way, tmp_path: Path) -> None:
    with _balanced(way, tmp_path) as pool, Callers(pool) as callers:
        pool.start(1)
        wait_until(lambda: _balances(pool, 1) > 50, "old connections come to the new gateway", 60)
        before = _balances(pool, 0)
        wait_until(lambda: _balances(pool, 0) > before + 50, "and the first one has calls as before", 60)

        first = pool.gateways[0]
        first.send(signal.SIGTERM)
        wait_until(lambda: pool.health(0) == NOT_SERVING, "it says that it stops")
        pool.await_down(0)
        assert pool.health(0) == NOT_SERVING, "who still comes is served"
        assert pool.health(1) == SERVING
        wait_until(lambda: _has_no_calls(pool, 0, 1), "all calls go to the other one")
        first.stop()
        before = _balances(pool, 1)
        wait_until(lambda: _balances(pool, 1) > before + 50, "the other one has all calls", 60)
        callers.stop()
        assert callers.errors == [], f"{len(callers.errors)} of {callers.calls} calls"


def test_who_follows_a_task_goes_on_whatever_the_age_of_connections(tmp_path: Path) -> None:
    with ExitStack() as stack:
        pool = stack.enter_context(_balanced(Way.TCP, tmp_path))
        stubs = stack.enter_context(pool.client())
        owner = register(stubs, "owner", "a good password")
        task_id = owner.submit(script("print(1)"))
        pool.start(1)
        client = stack.enter_context(NodePoolClient(f"127.0.0.1:{pool.port}", token=owner.token))
        seen: list[str] = []
        follower = threading.Thread(target=lambda: seen.extend(str(it) for it in client.watch(task_id)))
        follower.start()
        watches = "/nodepool.MasterNodeService/WatchTask"

        def ended() -> float:
            ports = [int(gateway.env["GATEWAY_METRICS_PORT"]) for gateway in pool.gateways]
            return sum(scrape(port).some("hivemind_gateway_rpcs_total", method=watches) for port in ports)

        wait_until(lambda: ended() >= 2, "its stream was cut, and cut again", 60)
        assert follower.is_alive()
        owner.stop(task_id)
        follower.join(CALL_SECONDS)
        assert not follower.is_alive()
        assert "STOPPED" in seen[-1].upper()
