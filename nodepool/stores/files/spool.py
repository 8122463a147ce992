"""Bytes on their way, collected to be read from anywhere: in memory as long as they are few, else encrypted.

What is written to the disk is AES-256-GCM under a key of this spool's own that is never stored, in a file
without a name: after a crash nobody can read it, the pool included. It knows nothing of packages or results.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.encryption import FRAME_BYTES, KEY_BYTES, TAG_BYTES

MEMORY_BYTES = 1 << 20
_SEALED_BYTES = FRAME_BYTES + TAG_BYTES


class SealedSpool(io.BufferedIOBase, BinaryIO):
    """A file to write from start to end and to read from anywhere, for one thread at a time.

    Raises OSError as files do, and CorruptFileError where the disk gives back other bytes than it was given.
    """

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._file: BinaryIO | None = None
        # Frames are numbered and never written twice, so a number is used once with this key.
        self._cipher = AESGCM(os.urandom(KEY_BYTES))
        self._frames = 0  # whole ones, on the disk
        self._rest = bytearray()  # what comes after them
        self._position = 0
        self._cached = (-1, b"")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self._frames * FRAME_BYTES + len(self._rest)

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            # As of a file on a disk: who looks for a header from the end counts on it.
            raise OSError(errno.EINVAL, "before the start")
        self._position = base + offset
        return self._position

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        self._check_open()
        if self._position != self.size:
            raise ValueError("this file is written at its end only")
        self._rest += data
        self._position += len(data)
        if self._file is not None or len(self._rest) > self._memory_bytes:
            self._spill()
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """As much as was asked for, or what there is up to the end."""
        self._check_open()
        left = max(0, self.size - self._position)
        if size is not None and size >= 0:
            left = min(left, size)
        parts: list[bytes] = []
        while left:
            frame, start = divmod(self._position, FRAME_BYTES)
            if frame < self._frames:
                piece = self._frame(frame)[start : start + left]
            else:
                start = self._position - self._frames * FRAME_BYTES
                piece = bytes(self._rest[start : start + left])
            parts.append(piece)
            self._position += len(piece)
            left -= len(piece)
        return b"".join(parts)

    def close(self) -> None:
        file, self._file = self._file, None
        self._rest.clear()
        self._cached = (-1, b"")
        super().close()
        if file is not None:
            file.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("this file is closed")

    def _spill(self) -> None:
        if self._file is None:
            # Not buffered: what could be left in a buffer would be lost with an error at the end.
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        start = 0
        while len(self._rest) - start >= FRAME_BYTES:
            plain = bytes(self._rest[start : start + FRAME_BYTES])
            self._put(self._cipher.encrypt(_nonce(self._frames), plain, None))
            self._frames += 1
            start += FRAME_BYTES
        del self._rest[:start]

    def _put(self, sealed: bytes) -> None:
        descriptor, offset, view = self._descriptor(), self._frames * _SEALED_BYTES, memoryview(sealed)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def _frame(self, number: int) -> bytes:
        if self._cached[0] != number:
            sealed = os.pread(self._descriptor(), _SEALED_BYTES, number * _SEALED_BYTES)
            try:
                plain = self._cipher.decrypt(_nonce(number), sealed, None)
            except (InvalidTag, ValueError) as error:
                raise CorruptFileError from error
            self._cached = (number, plain)
        return self._cached[1]

    def _descriptor(self) -> int:
        if self._file is None:
            raise ValueError("this file is closed")
        return self._file.fileno()


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
