"""What webhooks are sent to: a real HTTP server of a test's own, that answers well, badly or never."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass(frozen=True)
class Came:
    """One request, as it came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def signatures(self) -> list[str]:
        return self.headers["webhook-signature"].split(" ")

    def is_signed_with(self, key: str) -> bool:
        """As a receiver works it out: nothing of the pool's code."""
        secret = base64.b64decode(key.removeprefix("whsec_"))
        signed = f"{self.event_id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        return f"v1,{expected}" in self.signatures()


Answer = Callable[[socket.socket, int], None]


def says(data: bytes) -> Answer:
    return lambda connection, _number: connection.sendall(data)


def status(code: int, *headers: str) -> Answer:
    lines = [f"HTTP/1.1 {code} Whatever", "Content-Length: 0", "Connection: close", *headers]
    return says("".join(f"{line}\r\n" for line in [*lines, ""]).encode())


@dataclass
class Receiver:
    """Listens until it is closed. `answer` is given each request's connection and its number, from 1."""

    answer: Answer = field(default_factory=lambda: says(OK))
    certificate: Path | None = None
    host: str = "127.0.0.1"
    greeting: bytes = b""  # said before anything has come

    def __post_init__(self) -> None:
        self.came: list[Came] = []
        self.connections = 0
        self.let_go = threading.Event()  # those that hang go on
        self._tls: ssl.SSLContext | None = None
        if self.certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(self.certificate)
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}/hook?to=me"

    def hangs(self, _connection: socket.socket, _number: int) -> None:
        """An answer that does not come before the test lets it."""
        self.let_go.wait(60)

    def wait_for(self, count: int, what: str = "") -> list[Came]:
        return wait_until(
            lambda: self.came if len(self.came) >= count else None, what or f"{count} requests came"
        )

    def close(self) -> None:
        self.let_go.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.sendall(self.greeting)
            served = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with served:
                came = _read(served)
                if came is not None:
                    self.came.append(came)
                    self.answer(served, len(self.came))


def _read(connection: socket.socket) -> Came | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return Came(line, headers, body)
