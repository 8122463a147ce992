"""Sockets that forward to others until the test cuts them: an engine that stops and comes back, a way into
a network namespace."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from pathlib import Path

_READ_BYTES = 1 << 16


class _Proxy(ABC):
    """What is behind it is not touched by a cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    @abstractmethod
    def _listen(self) -> socket.socket: ...

    @abstractmethod
    def _connect(self) -> socket.socket: ...

    def mend(self) -> None:
        listener = self._listener = self._listen()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Nobody listens, and every connection is broken."""
        if self._listener is not None:
            # Wakes the thread that accepts; a close alone would not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                try:
                    target = self._connect()
                except OSError:
                    caller.close()
                    continue
                with self._lock:
                    self._open.update((caller, target))
                ends = [
                    threading.Thread(target=_forward, args=pair, daemon=True)
                    for pair in ((caller, target), (target, caller))
                ]
                for end in ends:
                    end.start()
                threading.Thread(target=self._close, args=(ends, caller, target), daemon=True).start()

    def _close(self, ends: list[threading.Thread], *sockets: socket.socket) -> None:
        for end in ends:
            end.join()
        with self._lock:
            self._open.difference_update(sockets)
        for each in sockets:
            each.close()


class SocketProxy(_Proxy):
    """From one Unix socket to another; `url` is for DOCKER_HOST."""

    def __init__(self, path: Path, target: str) -> None:
        super().__init__()
        self._path = path
        self._target = target

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    def cut(self) -> None:
        super().cut()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        return listener

    def _connect(self) -> socket.socket:
        target = socket.socket(socket.AF_UNIX)
        target.connect(self._target)
        return target


class PortProxy(_Proxy):
    """From a port of this address to one of loopback, which may be set later."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self._host = host
        self.target_port = 0
        self.port = 0
        self.mend()

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    def _listen(self) -> socket.socket:
        listener = socket.create_server((self._host, self.port), backlog=64)
        self.port = listener.getsockname()[1]
        return listener

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.target_port))


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
