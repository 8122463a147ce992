"""Lines to the broker that are there but dead: whoever listens on one notices, and goes on with another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from dispatcher.placing.node_events import NodeEventListener
from gateway.caches.task_events import EventHub
from nodepool.domain.errors import UnavailableError
from nodepool.settings import Settings
from nodepool.stores.redis import keys, subscription as subscriptions
from nodepool.stores.redis.client import Client, connect
from nodepool.stores.redis.subscription import subscription
from tests.support.agent_stage import HELLO, StageMaker
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "PING_SECONDS", 0.3)
    monkeypatch.setattr(subscriptions, "PONG_SECONDS", 1.0)


@pytest.fixture
def line(valkey: TestValkey) -> Iterator[TcpProxy]:
    with TcpProxy(valkey.port) as proxy:
        yield proxy


def test_an_agents_consumer_connects_again_when_its_report_gets_no_answer(
    make_stage: StageMaker, line: TcpProxy
) -> None:
    stage = make_stage()
    stage.gateway.broker_url = lambda user, password: f"redis://{user}:{password}@{line.address}/0"
    stage.start()
    assert stage.outcome(stage.send("t:1", HELLO)) == "SUCCEEDED"
    before = line.accepted
    line.kill_lines()
    stage.wait(lambda: "consumer.silent" in stage.agent.log(), "the report has failed")
    stage.wait(lambda: line.accepted >= before + 2, "report and consumer have other lines")
    # Not because nothing came of what is assigned, and not because kombu has missed an answer.
    assert "consumer.stalled" not in stage.agent.log()
    assert stage.outcome(stage.send("u:1", HELLO)) == "SUCCEEDED"


@pytest.fixture
def client(valkey: TestValkey, line: TcpProxy) -> Iterator[Client]:
    url = f"redis://{valkey.user}:{valkey.password}@{line.address}/0"
    with connect(Settings.model_validate({"redis_url": url, "redis_timeout_seconds": 1.0})) as made:
        yield made


class _Heard:
    """What a placement loop is told."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        self.looks = 0

    def node_changed(self, node_id: str) -> None:
        self.nodes.append(node_id)

    def owner_changed(self, owner_id: int) -> None:
        raise AssertionError(owner_id)

    def look_again(self) -> None:
        self.looks += 1


def test_a_quiet_line_that_answers_pings_goes_on(client: Client, line: TcpProxy) -> None:
    with subscription(client, "a") as heard:
        wait_until(lambda: heard.next(0.1) is not None, "it is subscribed")
        # Longer than any ping and its answer may take.
        for _ in range(20):
            assert heard.next(0.1) is None
        client.publish("a", "said")
        message = wait_until(lambda: heard.next(0.1), "it is heard")
        assert message is not None
        assert message.data == b"said"
    assert line.accepted == 2


def test_a_line_that_answers_no_ping_is_an_error(client: Client, line: TcpProxy) -> None:
    with subscription(client, "a") as heard:
        wait_until(lambda: heard.next(0.1) is not None, "it is subscribed")
        line.kill_lines()
        with pytest.raises(UnavailableError, match=r"cannot be reached"):
            wait_until(lambda: heard.next(0.1), "something is heard on a dead line")


def test_the_dispatcher_hears_of_nodes_again_after_its_line_died(
    client: Client, line: TcpProxy, valkey: TestValkey
) -> None:
    heard = _Heard()
    listener = NodeEventListener(client, heard)  # type: ignore[arg-type] # what of a loop it speaks to
    listener.start()
    try:
        wait_until(lambda: heard.looks, "it listens")
        line.kill_lines()
        wait_until(lambda: heard.looks > 2, "it listens on another line")
        valkey.admin.publish(keys.NODE_EVENTS_CHANNEL, "n1")
        wait_until(lambda: heard.nodes == ["n1"], "it hears")
    finally:
        listener.stop()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_the_gateway_wakes_watchers_again_after_its_line_died(
    client: Client, line: TcpProxy, valkey: TestValkey
) -> None:
    hub = EventHub(client)

    async def watched(said: threading.Event) -> bool:
        with hub.watch("t1") as event:
            said.set()
            await event.wait()
            return True

    def wakes() -> bool:
        said = threading.Event()
        waiting = asyncio.run_coroutine_threadsafe(watched(said), loop)
        said.wait()
        wait_until(lambda: valkey.admin.publish(keys.EVENTS_CHANNEL, "t1"), "somebody listens")
        try:
            return waiting.result(1.0)
        except TimeoutError:
            waiting.cancel()
            return False

    with _loop() as loop:
        hub.start(loop)
        try:
            wait_until(wakes, "watchers are woken")
            line.kill_lines()
            wait_until(wakes, "they are woken again", 30)
        finally:
            hub.close()


def test_a_command_on_a_dead_line_fails_in_its_time_and_the_next_one_has_another(
    client: Client, line: TcpProxy
) -> None:
    client.ping()
    line.kill_lines()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert client.ping()
