"""A package on its way in: its bytes, how many, and their SHA-256. It knows nothing of what is in it."""

from __future__ import annotations

import hashlib
import io
from typing import IO, Protocol

from nodepool.stores.files.disk import disk_errors
from nodepool.stores.files.file_store import FileStore

_CHUNK_BYTES = 1 << 18


class PackageToKeep(Protocol):
    """What a new task is to have: it came with the task, or is there already."""

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def store(self, files: FileStore) -> None: ...


class IncomingPackage:
    """For one thread at a time. What it is collected in belongs to the caller."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0

    @classmethod
    def of_bytes(cls, data: bytes) -> IncomingPackage:
        package = cls(io.BytesIO(data))
        package._whole, package._size = data, len(data)
        return package

    # What came in one piece is hashed where it is asked for, which is in a thread.
    _whole: bytes | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def held_bytes(self) -> int:
        """What reading all of it takes of memory besides the message that it came in."""
        return 0 if self._whole is not None else self._size

    def add(self, piece: bytes) -> None:
        """Raises StorageFullError."""
        self._hash.update(piece)
        self._size += len(piece)
        with disk_errors():
            self._file.write(piece)

    @property
    def sha256(self) -> str:
        if self._whole is not None:
            return hashlib.sha256(self._whole).hexdigest()
        return self._hash.hexdigest()

    def read(self) -> bytes:
        """All of it. Raises StorageFullError."""
        if self._whole is not None:
            return self._whole
        with disk_errors():
            self._file.seek(0)
            return self._file.read()

    def store(self, files: FileStore) -> None:
        """Raises StorageFullError."""
        if self._whole is not None:
            files.put_package(self._whole)
            return
        with disk_errors():
            self._file.seek(0)
        with files.package_writer() as writer:
            while chunk := self._file.read(_CHUNK_BYTES):
                writer.write(chunk)
            writer.commit()
