"""How soon a line that is there but dead is noticed: within ten seconds, whichever library speaks over it.

For the pool's parts, the agent and the SDK. Options only: it opens nothing, and does not know what is said.
What each of them does about a hung balancer, a dead forward and a firewall that forgot is in
docs/adr/0033-a-dead-line-is-noticed.md.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from nodepool.domain.gateway_choice import is_loopback

# Packets that nobody confirms: the kernel ends the connection after this.
UNCONFIRMED_SECONDS = 8
# Nothing is said: the kernel asks after so long, and so often.
IDLE_SECONDS = 3
PROBE_SECONDS = 2
PROBES = 2

# Something that holds a line and delivers nothing confirms packets, too: only an answer proves it alive.
PING_SECONDS = 3.0
PONG_SECONDS = 3.0

# Of gRPC clients. Gateways take more than a ping in five seconds for abuse.
_GRPC_PING_SECONDS = 6.0
_GRPC_PONG_SECONDS = 3.0
# The TCP and TLS handshakes of a line that is far away, and the first frame of HTTP/2.
_GRPC_CONNECT_SECONDS = 3.0

# A broker that is away is asked for after so long, so much later each time, and so often at the least.
_ASK_SECONDS = 0.5
_ASK_MOST_SECONDS = 2.0

GrpcOptions = list[tuple[str, int]]


def tcp_options() -> dict[int, int]:
    """Socket options of IPPROTO_TCP, as far as this system has them."""
    wanted = {
        "TCP_KEEPIDLE": IDLE_SECONDS,
        "TCP_KEEPINTVL": PROBE_SECONDS,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": UNCONFIRMED_SECONDS * 1000,
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def broker_options(timeout_seconds: float) -> dict[str, object]:
    """kombu's transport options: it asks a quiet connection whether it lives, and drops a silent one."""
    return {
        # Without it a frozen broker blocks a publisher for as long as it is frozen.
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "socket_keepalive": True,
        "socket_keepalive_options": tcp_options(),
        "health_check_interval": PING_SECONDS,
    }


def ask_again_soon(connection: Any) -> None:
    """For a consumer's kombu connection. By itself it asks for a broker that is away two seconds later each
    time, up to half a minute, while the broker may be back."""
    connection.ensure_connection = partial(
        connection.ensure_connection,
        interval_start=_ASK_SECONDS,
        interval_step=_ASK_SECONDS,
        interval_max=_ASK_MOST_SECONDS,
    )


def grpc_ping_options(ping_seconds: float, pong_seconds: float) -> GrpcOptions:
    """Ping after so long without a word, and end the connection when nothing comes back for so long."""
    pong = int(pong_seconds * 1000)
    return [
        ("grpc.keepalive_time_ms", int(ping_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", pong),
        # A ping has a patience of its own, by default a minute, and keepalive does not shorten it.
        ("grpc.http2.ping_timeout_ms", pong),
        # By default only two are sent until data is, and a watcher sends none.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def way_options(address: str) -> GrpcOptions:
    """For HOST:PORT. A proxy that the environment sets for the web is no way to this machine."""
    return [("grpc.enable_http_proxy", 0)] if is_loopback(address) else []


def grpc_client_options(*, first_delay_seconds: float, max_delay_seconds: float) -> GrpcOptions:
    """For a channel that is to notice a dead line, and to try again soon."""
    return [
        *grpc_ping_options(_GRPC_PING_SECONDS, _GRPC_PONG_SECONDS),
        ("grpc.initial_reconnect_backoff_ms", int(first_delay_seconds * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(max_delay_seconds * 1000)),
        # What its name does not say: how long one try to connect may take.
        ("grpc.min_reconnect_backoff_ms", int(_GRPC_CONNECT_SECONDS * 1000)),
        # A new channel has a new line; else it would share the dead one.
        ("grpc.use_local_subchannel_pool", 1),
    ]
