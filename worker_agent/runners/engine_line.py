"""The line to the container engine: a Unix socket, or TCP, where the kernel notices a line that is dead.

A run's output comes over one line that may be silent for hours, so that no patience of a call helps there.
Knows nothing of containers.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import docker
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.utils import kwargs_from_env
from requests.adapters import HTTPAdapter

from nodepool import keepalive

_KNOCK_SECONDS = 60
_SSH = (
    "the agent does not reach engines over ssh:// (DOCKER_HOST): run it beside the engine, whose containers "
    "have folders of the agent's machine, with unix:// or tcp://"
)


def engine_host() -> str:
    """As DOCKER_HOST names it, or the local one."""
    return (os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET).removeprefix("http+")


def open_engine(*, version: str, timeout_seconds: int, connections: int) -> docker.APIClient:
    """Raises OSError when nobody listens, what the client raises, and ValueError for ssh://."""
    host = engine_host()
    if host.startswith("ssh:"):
        raise ValueError(_SSH)
    _knock(host)
    client = docker.APIClient(
        version=version, timeout=timeout_seconds, max_pool_size=connections, **kwargs_from_env()
    )
    for scheme in ("http://", "https://"):
        if (plain := client.adapters.get(scheme)) is not None:  # there is none with a Unix socket
            plain.close()
            client.mount(scheme, _NoticingAdapter(pool_connections=connections, pool_maxsize=connections))
    return client


class _NoticingAdapter(HTTPAdapter):
    """Its sockets have the bounds on silence of nodepool.keepalive."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, socket_options=socket_options(), **options)


def socket_options() -> list[tuple[int, int, int]]:
    tcp = [(socket.IPPROTO_TCP, name, value) for name, value in keepalive.tcp_options().items()]
    # What the library would set by itself, and does not beside others.
    at_once = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return [at_once, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *tcp]


def _knock(host: str) -> None:
    """Raises OSError when nobody listens; the client would too, and leave its socket open."""
    if host.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_KNOCK_SECONDS)
            door.connect("/" + host.removeprefix("unix:").lstrip("/"))
