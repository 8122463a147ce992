"""The port for balancers, spoken to by hand: who is let in, what is read, what is held, and how it ends."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Stubs
from tests.support.environment import free_port
from tests.support.gateway import GatewayProcess
from tests.support.hostile import refused
from tests.support.inner_gateway import FromElsewhere
from tests.support.scrapes import scrape
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

BALANCER, STRANGER = "127.0.0.2", "127.0.0.1"
CONNECTIONS, CONNECTIONS_PER_ADDRESS, TRIES = 24, 4, 2
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20, 0, 0)


class Gateway(GatewayProcess):
    """With a port for a balancer."""

    def __init__(self, folder: Path, valkey: TestValkey) -> None:
        self.balancer_port, self.metrics_port = free_port(), free_port()
        super().__init__(
            folder,
            valkey,
            TRUSTED_PROXIES=f"{BALANCER}/32",
            PROXY_PROTOCOL_PORT=str(self.balancer_port),
            GATEWAY_METRICS_PORT=str(self.metrics_port),
            GRPC_MAX_CONNECTIONS=str(CONNECTIONS),
            GRPC_MAX_CONNECTIONS_PER_ADDRESS=str(CONNECTIONS_PER_ADDRESS),
            LOGIN_ATTEMPTS_PER_MINUTE=str(TRIES),
        )

    def connect(self, source: str = BALANCER) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.balancer_port), 20, source_address=(source, 0))

    def refused(self, cause: str) -> float:
        return scrape(self.metrics_port).some("hivemind_gateway_proxy_refusals_total", cause=cause)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("proxied")
    valkey = TestValkey(folder / "valkey")
    valkey.start()
    made = Gateway(folder, valkey)
    try:
        yield made.start_serving()
    finally:
        made.close()
        valkey.close()


def header(client: str, tlvs: bytes = b"") -> bytes:
    """Of version 2, for IPv4 or IPv6."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    address = socket.inet_pton(family, client)
    body = address + bytes(len(address)) + struct.pack("!HH", 51000, 443) + tlvs
    kind = 0x21 if family == socket.AF_INET6 else 0x11
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, kind, len(body)) + body


def is_closed(line: socket.socket) -> bool:
    """It ends, and nothing was said before."""
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def through(gateway: Gateway, begin: bytes) -> Iterator[Stubs]:
    """A client whose connections begin so, as a balancer's do."""
    way = FromElsewhere(gateway.balancer_port, BALANCER, begin)
    options = [("grpc.use_local_subchannel_pool", 1)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{way.port}", options=options) as channel:
            yield Stubs(channel)
    finally:
        way.close()


def guess(stubs: Stubs, name: str, **metadata: str) -> pb.LoginResponse:
    request = pb.LoginRequest(username=name, password="a wrong password")
    told = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    return stubs.users.Login(request, metadata=told, timeout=CALL_SECONDS)


def health(stubs: Stubs) -> str:
    return stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS).message


@pytest.mark.parametrize(
    "begin",
    [
        header("203.0.113.1"),
        header("2001:db8::1"),
        header("203.0.113.2", tlvs=struct.pack("!BH", 0xEE, 2000) + bytes(2000)),
        b"PROXY TCP4 203.0.113.3 192.0.2.1 51000 443\r\n",
        b"PROXY UNKNOWN\r\n",
    ],
    ids=["IPv4", "IPv6", "more besides", "version 1", "nobody"],
)
def test_limits_count_whom_the_header_names_and_nobodys_words(gateway: Gateway, begin: bytes) -> None:
    """The client tells of another address in each call, as if it were a balancer."""
    name = f"nobody-{zlib.crc32(begin)}"
    with through(gateway, begin) as stubs:
        for number in range(TRIES):
            answer = guess(stubs, f"{name}-{number}", x_forwarded_for=f"198.51.100.{number}")
            assert answer.message == "wrong username or password"
        code, words = refused(lambda: guess(stubs, f"{name}-more", x_forwarded_for="198.51.100.99"))
    assert (code, "too many attempts to log in" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)


def test_a_balancers_own_check_names_no_client(gateway: Gateway) -> None:
    with through(gateway, LOCAL) as stubs:
        assert health(stubs)


def test_a_header_may_come_in_pieces(gateway: Gateway) -> None:
    with gateway.connect() as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header("203.0.113.4") + HTTP2:
            line.sendall(bytes([byte]))
        assert line.recv(1), "gRPC's own words"


def test_who_is_no_balancer_is_not_heard(gateway: Gateway) -> None:
    before = gateway.refused("untrusted")
    with gateway.connect(STRANGER) as line:
        assert is_closed(line)
    assert gateway.refused("untrusted") == before + 1


@pytest.mark.parametrize("begin", [HTTP2, b"\x16\x03\x01\x02", b"PROXY TCP9 \r\n"])
def test_a_connection_without_a_header_ends(gateway: Gateway, begin: bytes) -> None:
    before = gateway.refused("header")
    with gateway.connect() as line:
        line.sendall(begin)
        assert is_closed(line)
    assert gateway.refused("header") == before + 1


def test_a_header_that_never_comes_is_not_waited_for_and_counts_as_a_connection(gateway: Gateway) -> None:
    wait_until(lambda: not relayed(gateway), "nothing of other tests is open")
    before, late = gateway.refused("full"), gateway.refused("late")
    lines = [gateway.connect() for _ in range(CONNECTIONS)]
    try:
        with gateway.connect() as one_more:
            assert is_closed(one_more)
        assert gateway.refused("full") == before + 1
        assert all(is_closed(line) for line in lines)
        assert gateway.refused("late") == late + CONNECTIONS
    finally:
        for line in lines:
            line.close()


def test_one_client_has_no_more_connections_than_its_bound(gateway: Gateway) -> None:
    lines = [gateway.connect() for _ in range(CONNECTIONS_PER_ADDRESS + 3)]
    try:
        with through(gateway, header("203.0.113.51")) as other:
            assert health(other)
            for line in lines:
                line.sendall(header("203.0.113.50") + HTTP2)
            wait_until(lambda: sum(map(_is_over, lines)) == 3, "those over the bound are ended, and no other")
            assert health(other), "another client is not concerned"
    finally:
        for line in lines:
            line.close()


def _is_over(line: socket.socket) -> bool:
    """What came is dropped."""
    line.setblocking(False)
    try:
        while line.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_a_client_that_is_gone_leaves_nothing_open(gateway: Gateway) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))

    wait_until(lambda: not relayed(gateway), "nothing of other tests is open")
    before = descriptors()
    for number in range(8):
        with gateway.connect() as line:
            line.sendall(header(f"203.0.113.{100 + number}") + HTTP2)
            assert line.recv(1), "gRPC's own words"
    wait_until(lambda: descriptors() <= before, "both halves of all of them are closed")


def relayed(gateway: Gateway) -> int:
    """Connections to the balancer's port that are open, as the kernel has them."""
    wanted = f":{gateway.balancer_port:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(wanted) and row[3] == "01")


def test_direct_connections_go_on_beside_it(gateway: Gateway) -> None:
    assert health(gateway.stubs)
