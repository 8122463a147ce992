"""The line to a container engine over TCP: a dead one is noticed, on every socket that a run hangs on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from nodepool import keepalive
from tests.support.environment import not_here
from worker_agent.runners.base import RunRefusedError
from worker_agent.runners.container_run import close_stream, unlimited
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.engine_line import open_engine

pytestmark = pytest.mark.docker


@pytest.fixture
def engine_over_tcp(docker_engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The engine of this machine behind a TCP port."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        not_here("the container engine is not behind a Unix socket")
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(host.removeprefix("unix://"))
                lines.extend((near, far))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("DOCKER_HOST", address)
    yield address
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for line in lines:
        line.close()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def _bounds(line: socket.socket) -> dict[int, int]:
    assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return {name: line.getsockopt(socket.IPPROTO_TCP, name) for name in keepalive.tcp_options()}


def test_calls_and_a_runs_output_have_the_kernels_bounds_on_silence(
    engine_over_tcp: str, test_image: str
) -> None:
    with closing(open_engine(version="auto", timeout_seconds=30, connections=4)) as client:
        assert client.info()["NCPU"]
        pools = client.adapters["http://"].poolmanager.pools
        lines = [line for key in pools.keys() for line in pools[key].pool.queue]  # noqa: SIM118 - no mapping
        assert [_bounds(it.sock) for it in lines if it is not None] == [keepalive.tcp_options()]
        container = client.create_container(test_image, ["sleep", "60"])["Id"]
        try:
            stream = unlimited(client.attach_socket(container, {"stdout": 1, "stream": 1}))
            line = getattr(stream, "_sock", stream)
            assert _bounds(line) == keepalive.tcp_options()
            assert line.gettimeout() is None
            close_stream(stream)
        finally:
            client.remove_container(container, force=True)
    with closing(DockerRunner("o/over-tcp")) as runner:
        assert runner.problem() == ""
        assert runner.disks == (), "its folders may be another machine's"


def test_an_engine_over_ssh_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://ada@big-box")
    with pytest.raises(RunRefusedError, match="run it beside the engine"):
        DockerRunner("o/n")
