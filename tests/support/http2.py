"""A client that speaks HTTP/2 as badly as a test wants, which no gRPC library would: frames by hand."""

from __future__ import annotations

import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS, CANCEL = 1, 4, b"\0\0\0\x08"
FRAME_BYTES = 16_384
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", compressed, len(message)) + message


class RawClient:
    """One connection. It answers nothing and keeps to no window but as send() is told to."""

    def __init__(self, port: int, *, window: int | None = None) -> None:
        """`window`: what the server may send on a stream before it has to wait, where not HTTP/2's own."""
        self.line = socket.create_connection(("127.0.0.1", port), timeout=60)
        settings = b"" if window is None else struct.pack(">HI", 4, window)
        self.line.sendall(_PREFACE + _frame(SETTINGS, 0, 0, settings))
        self.windows = {0: 65_535}
        self.ended: set[int] = set()
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.line.close()

    def call(self, stream: int, method: str, token: str = "", **more: str) -> None:
        """Begin a call on a stream, an odd number of its own."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "pool",
            "te": "trailers",
            "content-type": "application/grpc",
            **({"authorization": f"Bearer {token}"} if token else {}),
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        block = b"\0".join([b"", *(_text(name) + _text(value) for name, value in fields.items())])
        self.windows[stream] = 65_535
        self.line.sendall(_frame(HEADERS, END_HEADERS, stream, block))

    def data(self, stream: int, data: bytes, *, last: bool = False) -> None:
        self.line.sendall(_frame(DATA, END_STREAM if last else 0, stream, data))

    def reset(self, stream: int) -> None:
        self.line.sendall(_frame(RST_STREAM, 0, stream, CANCEL))

    def push(self, stream: int, total: int, patience: float = 2.0) -> int:
        """Send zeros as far as the server's windows allow; how many went out until it took no more."""
        sent = 0
        while sent < total and stream not in self.ended:
            size = min(self.windows[0], self.windows[stream], FRAME_BYTES, total - sent)
            if size > 0:
                try:
                    self.data(stream, bytes(size))
                except OSError:
                    return sent
                self.windows[0] -= size
                self.windows[stream] -= size
                sent += size
            if not self.read(0.0 if size > 0 else patience) and size <= 0:
                break
        return sent

    def read(self, patience: float) -> bool:
        """Take in what the server sent; False where nothing came, or the connection is over."""
        self.line.settimeout(patience or 0.000_1)
        try:
            came = self.line.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            return False
        finally:
            self.line.settimeout(30)
        self._unread += came
        while len(self._unread) >= 9:
            size = int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < 9 + size:
                break
            kind, flags = self._unread[3], self._unread[4]
            stream = int.from_bytes(self._unread[5:9], "big")
            self._heard(kind, flags, stream, self._unread[9 : 9 + size])
            self._unread = self._unread[9 + size :]
        return bool(came)

    def _heard(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, 65_535) + int.from_bytes(payload, "big")
        if kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended.add(stream)

    def is_over(self) -> bool:
        """Whether the server has ended the connection. What it sent is dropped."""
        self.line.settimeout(0.05)
        try:
            while self.line.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(text: str) -> bytes:
    """A string of HPACK, as it is."""
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, more = len(data) - 127, bytearray(b"\x7f")
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    return bytes(more) + bytes([rest]) + data
