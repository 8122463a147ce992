"""The output of one run, bounded, and addressed by offset so that a repeated chunk is harmless.

Output is written by the runner's reader thread and read by the thread that streams it. Nothing is
sent or stored here.
"""

from __future__ import annotations

import threading

DEFAULT_CHUNK_BYTES = 64 << 10


class OutputBuffer:
    """Keeps the first `max_output_bytes`, then one line that says so; what comes after is counted only."""

    def __init__(self, max_output_bytes: int) -> None:
        if max_output_bytes < 1:
            raise ValueError("max_output_bytes must be at least 1")
        self._max_output_bytes = max_output_bytes
        self._data = bytearray()
        self._dropped_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def append(self, data: bytes) -> None:
        if not data:
            return
        with self._changed:
            if self._closed:
                return
            if self._dropped_bytes:
                self._dropped_bytes += len(data)
                return
            kept = data[: self._max_output_bytes - len(self._data)]
            self._data += kept
            if len(kept) < len(data):
                self._dropped_bytes = len(data) - len(kept)
                self._data += self._notice()
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more comes; whoever waits is woken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def chunk(self, offset: int, max_bytes: int = DEFAULT_CHUNK_BYTES) -> bytes:
        """At most `max_bytes` from `offset` on; empty at the end, and beyond it."""
        with self._changed:
            return bytes(self._data[max(0, offset) : max(0, offset) + max_bytes])

    def wait_beyond(self, offset: int, timeout_seconds: float) -> bool:
        """Wait until there is output beyond `offset`. False after the time, or when none can come."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._data) > offset, timeout_seconds)
            return len(self._data) > offset

    @property
    def size_bytes(self) -> int:
        """The offset of the next byte, the notice included."""
        with self._changed:
            return len(self._data)

    @property
    def dropped_bytes(self) -> int:
        with self._changed:
            return self._dropped_bytes

    @property
    def closed(self) -> bool:
        with self._changed:
            return self._closed

    def _notice(self) -> bytes:
        newline = b"" if self._data.endswith(b"\n") else b"\n"
        return newline + f"[output is cut here: only {self._max_output_bytes} bytes are kept]\n".encode()
