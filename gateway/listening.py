"""Where the gateway listens, and how its connections are: addresses, certificates, gRPC's options.

Knows no service and no call.
"""

from __future__ import annotations

import socket
from typing import Any

import grpc

from gateway.admission.message_limits import largest_message, longest_stream_seconds
from nodepool.domain.loopback import is_loopback_host
from nodepool.keepalive import grpc_ping_options
from nodepool.settings import Settings

LOOPBACK = "127.0.0.1"
MIN_CLIENT_PING_INTERVAL_MS = 5000
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


def check_exposure(settings: Settings) -> None:
    """CannotServeError where tokens and code would travel readable and nobody has said that they may."""
    hosts = [settings.grpc_server_host]
    if settings.proxy_protocol_port:
        hosts.append(settings.proxy_protocol_host or hosts[0])
    host = next((host for host in hosts if not is_loopback_host(host)), "")
    if settings.grpc_tls_cert_file or settings.allow_insecure_plaintext or not host:
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
        *_age_options(settings),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        *grpc_ping_options(settings.grpc_keepalive_seconds, settings.grpc_keepalive_timeout_seconds),
        ("grpc.keepalive_permit_without_calls", 1),
        # The name that gRPC Core gives min_recv_ping_interval_without_data.
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_INTERVAL_MS),
        # Two gateways on one port would each get half of the calls, and say nothing.
        ("grpc.so_reuseport", 0),
    ]


def _age_options(settings: Settings) -> list[tuple[str, Any]]:
    """Connections are made anew, and so spread over the gateways that there are by then.

    gRPC says GOAWAY, varies the age by a tenth, and ends calls that are open after the grace.
    """
    if not settings.grpc_connection_age_seconds:
        return []
    grace = settings.grpc_connection_grace_seconds or longest_stream_seconds(settings)
    return [
        ("grpc.max_connection_age_ms", int(settings.grpc_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(grace * 1000)),
    ]


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """The port that the server now has. CannotServeError where it cannot have it."""
    check_exposure(settings)
    address = _address(settings.grpc_server_host, settings.grpc_server_port)
    return _bind(server, settings, address)


def bind_inner(server: grpc.aio.Server, settings: Settings) -> int:
    """A port for connections that came with a PROXY header; TLS goes through to it."""
    return _bind(server, settings, f"{LOOPBACK}:0")


def proxy_socket(settings: Settings) -> socket.socket:
    """Listens on PROXY_PROTOCOL_PORT, of IPv4 too where its host is ::. CannotServeError where it cannot."""
    host = (settings.proxy_protocol_host or settings.grpc_server_host).strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, settings.proxy_protocol_port), family=family, dualstack_ipv6=host == "::"
        )
    except OSError as error:
        raise _cannot_listen(_address(host, settings.proxy_protocol_port), "PROXY_PROTOCOL_PORT") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _bind(server: grpc.aio.Server, settings: Settings, address: str) -> int:
    credentials = _credentials(settings)
    try:
        port = (
            server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        )
    except RuntimeError:
        port = 0
    if not port:
        raise _cannot_listen(address, "GRPC_SERVER_PORT")
    return port


def _cannot_listen(address: str, setting: str) -> CannotServeError:
    return CannotServeError(
        f"cannot listen on {address}: the port is taken, or the address is not this machine's. "
        f"Stop the program that has it, or set {setting}",
        exit_code=1,
    )


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if not (settings.grpc_tls_cert_file and settings.grpc_tls_key_file):
        return None
    try:
        certificate = settings.grpc_tls_cert_file.read_bytes()
        key = settings.grpc_tls_key_file.read_bytes()
    except OSError as error:
        raise CannotServeError(f"cannot read the TLS certificate or its key: {error}", exit_code=2) from error
    return grpc.ssl_server_credentials([(key, certificate)])
