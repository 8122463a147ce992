"""The port for balancers that pass TCP on: each connection begins with a PROXY header, and goes on to gRPC.

gRPC reads no such header. So this listener does, of trusted balancers only, and joins the connection to one
of its own to a port of the gRPC server that nobody else is told of. TLS goes through untouched. By the name
that gRPC has for the inner connection `ClientAddresses` knows whose it is, so its calls, its limits and the
kernel's figures are those of a connection that the client made itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

import structlog

from gateway.admission.connections import peer_name
from gateway.proxies.client_addresses import ClientAddresses
from gateway.proxies.proxy_header import BadHeaderError, HeaderReader, ReadHeader
from gateway.proxies.relay import READ_BYTES, Side, join
from nodepool.domain.client_address import plain
from nodepool.domain.nodes.push_addresses import Network, is_within
from nodepool.keepalive import tcp_options
from nodepool.metrics import catalogue

log = structlog.get_logger(__name__)

HEADER_SECONDS = 5.0
_BACKLOG = 512
# A call of a connection that has ended is still that client's.
_REMEMBERED_SECONDS = 60.0
_WARN_SECONDS = 60.0


class ProxyListener:
    """Belongs to its event loop. `inner` is the gRPC server's own port on loopback."""

    def __init__(
        self, trusted: Sequence[Network], addresses: ClientAddresses, inner: tuple[str, int], most: int
    ) -> None:
        self._trusted, self._addresses, self._inner, self._most = trusted, addresses, inner, most
        self._room = memoryview(bytearray(READ_BYTES))
        self._open: set[_Outer] = set()
        self._server: asyncio.Server | None = None
        self._warned_at: dict[str, float] = {}

    async def start(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Outer(self), sock=listening, backlog=_BACKLOG)

    def stop_listening(self) -> None:
        """What is open goes on."""
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        self.stop_listening()
        for outer in tuple(self._open):
            outer.transport.abort()

    # -- what its connections ask ---------------------------------------------------------------------
    def admits(self, outer: _Outer, address: str) -> bool:
        """Every connection counts, also one whose header has not come."""
        if not is_within(address, self._trusted):
            self.refuse("untrusted", address)
        elif len(self._open) >= self._most:
            self.refuse("full", address)
        else:
            self._open.add(outer)
            return True
        return False

    def ended(self, outer: _Outer) -> None:
        self._open.discard(outer)

    def refuse(self, cause: str, address: str, why: str = "") -> None:
        catalogue.proxy_refusals.labels(cause).inc()
        now = asyncio.get_running_loop().time()
        if now - self._warned_at.get(cause, -_WARN_SECONDS) >= _WARN_SECONDS:
            self._warned_at[cause] = now
            log.warning(
                "a connection to the port for balancers is refused",
                action="proxy.refused",
                cause=cause,
                address=address,
                why=why,
            )

    def side(self) -> Side:
        return Side(self._room)

    def room(self) -> memoryview:
        return self._room

    async def connect(self, client: str) -> _Inner:
        """A connection to gRPC that is the client's. OSError where there is none to be had."""
        loop = asyncio.get_running_loop()
        line = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            line.setblocking(False)
            await loop.sock_connect(line, self._inner)
            peer = peer_name(*line.getsockname())
            self._addresses.announced[peer] = client
            _, inner = await loop.create_connection(lambda: _Inner(self, peer, client), sock=line)
        except BaseException:
            line.close()
            raise
        return inner

    def forget_later(self, peer: str, client: str) -> None:
        asyncio.get_running_loop().call_later(_REMEMBERED_SECONDS, self._forget, peer, client)

    def _forget(self, peer: str, client: str) -> None:
        # By then the name may be another one's.
        if self._addresses.announced.get(peer) is client:
            del self._addresses.announced[peer]


class _Inner(Side):
    """To gRPC."""

    def __init__(self, listener: ProxyListener, peer: str, client: str) -> None:
        super().__init__(listener.room())
        self._listener, self._peer, self._client = listener, peer, client

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.forget_later(self._peer, self._client)


class _Outer(Side):
    """From a balancer: its header first."""

    def __init__(self, listener: ProxyListener) -> None:
        super().__init__(listener.room())
        self._listener = listener
        self._header: HeaderReader | None = HeaderReader()
        self._address = ""
        self._late: asyncio.TimerHandle | None = None
        self._joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._address = plain(str(transport.get_extra_info("peername", ("",))[0]))
        if not self._listener.admits(self, self._address):
            self.transport.abort()
            return
        _keep_alive(transport.get_extra_info("socket"))
        self._late = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._is_late)

    def take(self, data: bytes) -> None:
        if self._header is None:
            super().take(data)
            return
        try:
            read = self._header.feed(data)
        except BadHeaderError as error:
            self._listener.refuse("header", self._address, str(error))
            self.transport.abort()
            return
        if read is not None:
            self._header = None
            self._stop_waiting()
            self.transport.pause_reading()
            self._joining = asyncio.get_running_loop().create_task(self._join(read))

    async def _join(self, read: ReadHeader) -> None:
        try:
            inner = await self._listener.connect(self._address if read.client is None else read.client)
        except OSError as error:
            log.warning("gRPC takes no connection", action="proxy.inner_failed", why=str(error))
            self.transport.abort()
            return
        if self.transport.is_closing():
            inner.transport.abort()
            return
        join(self, inner)
        if read.rest:
            inner.transport.write(read.rest)
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._listener.ended(self)
        super().connection_lost(exc)

    def _is_late(self) -> None:
        self._listener.refuse("late", self._address)
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _keep_alive(line: socket.socket) -> None:
    """A window that stays shut for long ends nothing: who reads slowly is not gone, and gRPC asks."""
    with suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in tcp_options().items():
            if option != getattr(socket, "TCP_USER_TIMEOUT", None):
                line.setsockopt(socket.IPPROTO_TCP, option, value)
