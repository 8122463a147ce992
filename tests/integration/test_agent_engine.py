"""An agent whose container engine goes away and comes back, behind a socket that the test can cut."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support.agent_stage import HELLO, WAITING, Stage, StageMaker
from tests.support.environment import not_here
from tests.support.processes import run_name
from tests.support.socket_proxy import SocketProxy

pytestmark = pytest.mark.docker


@pytest.fixture
def engine_socket(docker_engine: docker.DockerClient) -> Iterator[SocketProxy]:
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        not_here("the container engine is not behind a Unix socket")
    # Short: a Unix socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="hm-eng-"))
    proxy = SocketProxy(folder / "s", host.removeprefix("unix://"))
    proxy.mend()
    yield proxy
    proxy.cut()
    shutil.rmtree(folder)


@pytest.fixture
def stage(make_stage: StageMaker, engine_socket: SocketProxy, test_image: str) -> Iterator[Stage]:
    stage = make_stage(node=f"n1-{run_name()}", default_image=test_image)
    stage.agent = stage.make_agent("--runner", "docker")
    stage.agent.env["DOCKER_HOST"] = engine_socket.url
    yield stage.start()
    # What runs is removed by the agent that ends, which needs its engine for it.
    stage.close()


def statuses(stage: Stage) -> list[tuple[str, bool]]:
    """What the agent told of its engine, and whether as the same start as before."""
    return [(told.docker_status, told.again) for told in stage.gateway.registrations]


def containers(engine: docker.DockerClient, stage: Stage) -> list[str]:
    found = engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"hivemind.node={stage.node_id}"}
    )
    return [container.labels["hivemind.attempt"] for container in found]


def test_the_pool_hears_that_the_engine_is_gone_and_that_it_is_back(
    stage: Stage, engine_socket: SocketProxy, docker_engine: docker.DockerClient
) -> None:
    running = stage.running("before:1", WAITING)
    engine_socket.cut()
    # What ran is not this node's any more, though its container may go on behind the cut.
    assert stage.outcome(running) == "REFUSED"
    stage.wait(lambda: ("stopped", True) in statuses(stage), "the pool hears of it")
    meanwhile = stage.send("meanwhile:1", HELLO)
    assert stage.outcome(meanwhile) == "REFUSED"
    assert meanwhile.end is not None
    assert "the container engine does not answer" in meanwhile.end.reason
    assert meanwhile.claims == 0
    assert containers(docker_engine, stage) == ["before:1"]

    engine_socket.mend()
    stage.wait(lambda: statuses(stage)[-1] == ("running", True), "the pool hears that it is back")
    stage.wait(lambda: not containers(docker_engine, stage), "what ran on without the agent is removed")
    after = stage.send("after:1", HELLO)
    assert stage.outcome(after) == "SUCCEEDED"
    assert statuses(stage) == [("running", False), ("stopped", True), ("running", True)]


def test_a_gateway_that_is_away_hears_of_the_engine_later(stage: Stage, engine_socket: SocketProxy) -> None:
    stage.gateway.stop()
    engine_socket.cut()
    stage.agent.wait_for_line("engine.away")
    assert statuses(stage) == [("running", False)]
    stage.gateway.start()
    stage.wait(lambda: ("stopped", True) in statuses(stage), "the pool hears of it")
    engine_socket.mend()
    stage.wait(lambda: statuses(stage)[-1] == ("running", True), "the pool hears that it is back")
