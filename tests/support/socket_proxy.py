"""A Unix socket that forwards to another one, until the test cuts it: an engine that stops and comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

_READ_BYTES = 1 << 16


class SocketProxy:
    """`url` is for DOCKER_HOST. What is behind it is not touched by a cut."""

    def __init__(self, path: Path, target: str) -> None:
        self._path = path
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    def mend(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Nobody listens, and every connection is broken."""
        if self._listener is not None:
            # Wakes the thread that accepts; a close alone would not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(self._target)
                with self._lock:
                    self._open.update((caller, engine))
                ends = [
                    threading.Thread(target=_forward, args=pair, daemon=True)
                    for pair in ((caller, engine), (engine, caller))
                ]
                for end in ends:
                    end.start()
                threading.Thread(target=self._close, args=(ends, caller, engine), daemon=True).start()

    def _close(self, ends: list[threading.Thread], *sockets: socket.socket) -> None:
        for end in ends:
            end.join()
        with self._lock:
            self._open.difference_update(sockets)
        for each in sockets:
            each.close()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
