"""One package or result in the making: hashed, encrypted and spilled to the disk as it comes.

Where it goes in the end the store says (file_store.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from nodepool.stores.files.disk import NewFile, disk_errors
from nodepool.stores.files.encryption import FRAME_BYTES, HEADER_BYTES, Sealer


class Writer:
    """One file in the making, for one thread; left without a commit, nothing of it stays."""

    def __init__(self, key: bytes, folder: Path, commit: Callable[[Writer, str], None]) -> None:
        self.sealer = Sealer(key)
        self.file: NewFile | None = None  # none as long as all fits in one frame
        self._folder = folder
        self._commit = commit
        self._waiting = bytearray()
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._open = True

    @property
    def rest(self) -> bytes:
        """What no frame was made of yet."""
        return bytes(self._waiting)

    def write(self, data: bytes) -> None:
        self._check_open()
        self._hash.update(data)
        self._size_bytes += len(data)
        self._waiting += data
        try:
            with disk_errors():
                self._spill()
        except BaseException:
            self.abort()
            raise

    def digest(self) -> tuple[str, int]:
        """(SHA-256 in hex, size in bytes) of what was written so far."""
        return self._hash.hexdigest(), self._size_bytes

    def commit(self) -> tuple[str, int]:
        """(SHA-256 in hex, size in bytes) of what was written, which is on the disk now."""
        self._check_open()
        sha = self._hash.hexdigest()
        try:
            self._commit(self, sha)
        finally:
            self.abort()
        return sha, self._size_bytes

    def abort(self) -> None:
        """Nothing happens after a commit or an abort."""
        self._open = False
        self._waiting.clear()
        if self.file is not None:
            self.file.discard()
            self.file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("this writer is finished")

    def _spill(self) -> None:
        start = 0
        while len(self._waiting) - start > FRAME_BYTES:
            if self.file is None:
                self.file = NewFile(self._folder)
                self.file.write(bytes(HEADER_BYTES))
            plain = bytes(self._waiting[start : start + FRAME_BYTES])
            self.file.write(self.sealer.frame(plain, final=False))
            start += FRAME_BYTES
        del self._waiting[:start]
