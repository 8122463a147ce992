"""healthcheck.py PART: ends with 0 when the part in this container does its work, else says why not."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import redis
from celery.app.utils import find_app
from cryptography import x509

from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

SECONDS = 4.0
# An agent reports every few seconds.
QUIET_SECONDS = 60.0


def valkey() -> None:
    with redis.Redis(
        username="pool", password=os.environ["VALKEY_PASSWORD"], socket_timeout=SECONDS
    ) as client:
        client.ping()


def gateway() -> None:
    address = f"127.0.0.1:{os.environ.get('GRPC_SERVER_PORT', '50051')}"
    with _channel(address, os.environ.get("GRPC_TLS_CERT_FILE", "")) as channel:
        answer = rpc.NodeManagerServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=SECONDS)
    if not answer.healthy:
        raise RuntimeError(answer.message)


def _channel(address: str, certificate_file: str) -> grpc.Channel:
    if not certificate_file:
        return grpc.insecure_channel(address)
    pem = Path(certificate_file).read_bytes()
    # Its own certificate is what is trusted here, whoever signed it, under the name that it is for.
    options = (("grpc.ssl_target_name_override", _name_in(pem)),)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(pem), options)


def _name_in(pem: bytes) -> str:
    certificate = x509.load_pem_x509_certificate(pem)
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = (
            *names.get_values_for_type(x509.DNSName),
            *map(str, names.get_values_for_type(x509.IPAddress)),
        )
        return found[0].replace("*", "pool", 1)
    return "localhost"


def dispatcher() -> None:
    """Its worker answers over the broker."""
    name = f"dispatcher@{socket.gethostname()}"
    if not find_app("dispatcher").control.ping(destination=[name], timeout=SECONDS, limit=1):
        raise RuntimeError(f"{name} does not answer")


def agent() -> None:
    """The pool hears the node: what the agent thinks of itself says less."""
    name, password = os.environ["HIVEMIND_USERNAME"], os.environ["HIVEMIND_PASSWORD"]
    node_id = f"{name}/{os.environ['HIVEMIND_NODE']}"
    with grpc.insecure_channel(os.environ["HIVEMIND_GATEWAY"]) as channel:
        login = rpc.UserServiceStub(channel).Login(
            pb.LoginRequest(username=name, password=password), timeout=SECONDS
        )
        answer = rpc.NodeManagerServiceStub(channel).GetNodeList(
            pb.GetNodeListRequest(), timeout=SECONDS, metadata=(("authorization", f"Bearer {login.token}"),)
        )
    heard = max((node.last_heartbeat for node in answer.nodes if node.node_id == node_id), default=0.0)
    if time.time() - heard > QUIET_SECONDS:
        raise RuntimeError(f"the pool has not heard {node_id} for {QUIET_SECONDS:g} s")


def flower() -> None:
    with urllib.request.urlopen("http://127.0.0.1:5555/healthcheck", timeout=SECONDS) as answer:
        answer.read()


CHECKS = {"valkey": valkey, "gateway": gateway, "dispatcher": dispatcher, "agent": agent, "flower": flower}


def main() -> int:
    try:
        CHECKS[sys.argv[1]]()
    except Exception as error:  # noqa: BLE001 - whatever it is, the part is not healthy
        print(f"{sys.argv[1]}: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
