"""The cache of packages on a node: by hash, bounded in bytes of disk and in number.

Knows neither the gateway nor how a task is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

from nodepool.domain.errors import InvalidPackageError

_COPY_BYTES = 1 << 18
_SHA256_LENGTH = 64
# A package of a hundred bytes takes a block and an inode all the same.
MAX_KEPT = 4096


class PackageCache:
    """Packages by their SHA-256 in one folder; the least recently used go when it is over its size.

    The folder belongs to this cache alone. Thread-safe.
    """

    def __init__(self, folder: Path, max_bytes: int, max_kept: int = MAX_KEPT) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_kept = max_kept
        self._lock = threading.Lock()
        for leftover in folder.glob("*.part"):
            leftover.unlink(missing_ok=True)

    def hashes(self, limit: int = 1000) -> list[str]:
        """What is kept, the most recently used first."""
        with self._lock:
            return [path.name for _, path in sorted(self._entries(), reverse=True)[:limit]]

    def open(self, sha256: str) -> int | None:
        """A descriptor of the package, for the caller to close; None when it is not kept.

        The package stays readable through it though it be evicted. Bytes that no longer have their hash
        (a broken disk) are dropped.
        """
        path = self._path(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if _sha256_of(descriptor) != sha256:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return descriptor

    def store(self, sha256: str, chunks: Iterable[bytes], max_bytes: int) -> int:
        """Keep the package whole or not at all; returns a descriptor of it, for the caller to close.

        Raises InvalidPackageError when the bytes are more than `max_bytes` or have another hash.
        """
        path = self._path(sha256)
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=self._folder)
        part = Path(name)
        try:
            _write_checked(descriptor, chunks, sha256, max_bytes)
            part.replace(path)
        except BaseException:
            os.close(descriptor)
            part.unlink(missing_ok=True)
            raise
        self._evict(spare=path)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def _path(self, sha256: str) -> Path:
        if len(sha256) != _SHA256_LENGTH or not set(sha256) <= set("0123456789abcdef"):
            raise InvalidPackageError("the package has no SHA-256 in hexadecimal")
        return self._folder / sha256

    def _entries(self) -> list[tuple[int, Path]]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if len(entry.name) == _SHA256_LENGTH:
                        found.append((entry.stat().st_mtime_ns, Path(entry.path)))
        return found

    def _evict(self, spare: Path) -> None:
        with self._lock:
            entries = sorted(self._entries())
            sizes: dict[Path, int] = {}
            for _, path in entries:
                with contextlib.suppress(FileNotFoundError):
                    sizes[path] = path.stat().st_size
            total, count = sum(sizes.values()), len(sizes)
            for path, size in sizes.items():
                if total <= self._max_bytes and count <= self._max_kept:
                    return
                if path != spare:
                    path.unlink(missing_ok=True)
                    total -= size
                    count -= 1


def _sha256_of(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, _COPY_BYTES):
        digest.update(chunk)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return digest.hexdigest()


def _write_checked(descriptor: int, chunks: Iterable[bytes], sha256: str, max_bytes: int) -> None:
    digest = hashlib.sha256()
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise InvalidPackageError(f"the package is larger than {max_bytes} bytes")
        digest.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
    if digest.hexdigest() != sha256:
        raise InvalidPackageError("the package arrived with another SHA-256 than announced")
