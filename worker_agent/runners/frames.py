"""Takes apart the stream in which a container engine sends standard output and error. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

# One byte of which stream, three of nothing, four of length, big-endian; then that many bytes.
_HEADER_BYTES = 8
_LENGTH = slice(4, 8)


class Demultiplexer:
    """Both streams merged, in the order in which they came; frames may be cut anywhere."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                view = view[len(part) :]
                yield bytes(part)
                continue
            missing = _HEADER_BYTES - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _HEADER_BYTES:
                self._left = int.from_bytes(self._header[_LENGTH], "big")
                self._header.clear()
