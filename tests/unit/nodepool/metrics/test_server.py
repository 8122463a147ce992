"""/metrics over HTTP: what it answers, whom it does not wait for, and a port that is taken."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from nodepool.metrics.server import MetricsServer
from tests.support.environment import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("hivemind_nodes", "Nodes.", registry=made).set(7)
    return made


@pytest.fixture
def port(registry: CollectorRegistry) -> Iterator[int]:
    port = free_port()
    server = MetricsServer("127.0.0.1", port, registry)
    server.start()
    wait_until(lambda: is_open(port), "metrics are served")
    yield port
    server.close()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def test_a_scrape_can_be_parsed(port: int) -> None:
    (family,) = text_string_to_metric_families(get(port))
    assert [sample.value for sample in family.samples] == [7.0]


def test_nothing_else_is_there(port: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(port, "/")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", method="DELETE")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=60)


def test_who_connects_and_says_nothing_does_not_keep_the_others_out(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(3)]
    assert "hivemind_nodes 7.0" in get(port)
    for connection in silent:
        connection.close()


def test_a_taken_port_stops_nobody_and_is_said(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = MetricsServer("127.0.0.1", taken.getsockname()[1], registry)
        server.start()
        wait_until(lambda: "metrics cannot be served" in caplog.text, "the log says it")
        server.close()


def test_port_0_is_none(registry: CollectorRegistry) -> None:
    server = MetricsServer("127.0.0.1", 0, registry)
    server.start()
    server.close()
