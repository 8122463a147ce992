"""Two gateways of one pool behind Debian's HAProxy, with the recipes of deploy/haproxy as they are."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.server import GATEWAY_ALONE
from tests.support.accounts import CALL_SECONDS, Stubs
from tests.support.certificates import Authority
from tests.support.environment import ROOT, free_port
from tests.support.gateway import GatewayProcess
from tests.support.haproxy import HOST, Haproxy
from tests.support.inner_gateway import FromElsewhere
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

RECIPES = ROOT / "deploy" / "haproxy"


class Way(StrEnum):
    """How HAProxy goes between."""

    TCP = "tcp"
    TCP_TLS = "tcp, TLS of the gateways"
    HTTP2 = "http2"
    HTTP2_TLS = "http2, TLS to the gateways too"

    @property
    def is_tcp(self) -> bool:
        return self in (Way.TCP, Way.TCP_TLS)


class BalancedGateways:
    """`gateways` are not started yet; HAProxy is."""

    def __init__(self, folder: Path, valkey: TestValkey, way: Way, **settings: str) -> None:
        self.way = way
        self.authority = Authority(folder, "authority")
        self._certificate = self.authority.sign("pool", HOST)
        self._doors = [free_port() for _ in range(2)] if way.is_tcp else []
        self.gateways = [
            GatewayProcess(folder, valkey, **self._settings(number), **settings) for number in range(2)
        ]
        self.port = free_port()
        recipe = RECIPES / ("tcp.cfg" if way.is_tcp else "http2.cfg")
        self.haproxy = Haproxy(folder, recipe, (self.port,), self._environment())
        try:
            self.haproxy.begin()
        except BaseException:
            self.haproxy.kill()
            raise

    def _settings(self, number: int) -> dict[str, str]:
        made = {"GATEWAY_METRICS_PORT": str(free_port()), "TRUSTED_PROXIES": HOST}
        if self.way in (Way.TCP_TLS, Way.HTTP2_TLS):
            made |= dict.fromkeys(("GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"), str(self._certificate))
        return made | ({"PROXY_PROTOCOL_PORT": str(self._doors[number])} if self._doors else {})

    def _environment(self) -> dict[str, str]:
        ports = self._doors or [gateway.port for gateway in self.gateways]
        verified = f"verify required ca-file {self.authority.file}"
        check = f"check-ssl {verified} check-alpn h2" if self.way is Way.TCP_TLS else ""
        to_gateways = f"ssl {verified} alpn h2" if self.way is Way.HTTP2_TLS else ""
        return {
            "BIND": f"{HOST}:{self.port}",
            "GATEWAY_A": f"{HOST}:{ports[0]}",
            "GATEWAY_B": f"{HOST}:{ports[1]}",
            "CERTIFICATE": str(self._certificate),
            "CHECK_TLS": check,
            "GATEWAY_TLS": to_gateways,
        }

    def start(self, number: int) -> GatewayProcess:
        """It serves, and HAProxy knows."""
        gateway = self.gateways[number].start_serving()
        self.await_up(number)
        return gateway

    def await_up(self, number: int) -> None:
        name = "ab"[number]
        wait_until(lambda: self._last_word(name) == "UP", f"HAProxy sends calls to gateway {name}", 30)

    def await_down(self, number: int) -> None:
        name = "ab"[number]
        wait_until(lambda: self._last_word(name) == "DOWN", f"HAProxy sends none to gateway {name}", 30)

    def _last_word(self, name: str) -> str:
        lines = [line for line in self.haproxy.log().splitlines() if f"gateways/{name} is " in line]
        return lines[-1].partition(f"gateways/{name} is ")[2].split()[0].strip(",.") if lines else ""

    def channel(self, port: int = 0) -> grpc.Channel:
        """A line of its own to the balancer."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"{HOST}:{port or self.port}"
        if self.way is Way.TCP:
            return grpc.insecure_channel(address, options=options)
        credentials = grpc.ssl_channel_credentials(self.authority.file.read_bytes())
        return grpc.secure_channel(address, credentials, options=options)

    @contextmanager
    def client(self, address: str = "") -> Iterator[Stubs]:
        """A client on a new line, from one of this machine's addresses."""
        way = FromElsewhere(self.port, address) if address else None
        channel = self.channel(way.port if way else 0)
        try:
            yield Stubs(channel)
        finally:
            channel.close()
            if way:
                way.close()

    def health(self, number: int) -> int:
        """What the gateway says of itself, asked without the balancer."""
        asked = health_pb2.HealthCheckRequest(service=GATEWAY_ALONE)
        stub = health_pb2_grpc.HealthStub(self.gateways[number].channel)
        return int(stub.Check(asked, timeout=CALL_SECONDS).status)

    def close(self) -> None:
        for gateway in self.gateways:
            if gateway.is_running:
                gateway.send(signal.SIGTERM)  # and once more: no wait for the balancer
                gateway.wait_for_line("gateway is stopping")
            gateway.close()
        self.haproxy.kill()
