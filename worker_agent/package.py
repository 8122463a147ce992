"""Packages in, results out: the cache of packages, safe unpacking, and the result ZIP.

Everything a task wrote is hostile: it is opened without following links, and only what is a plain
file or folder gets into the result. This file knows neither the gateway nor how a task is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from nodepool.errors import InvalidPackageError
from nodepool.packages import PackageLimits, check_package, entry_script

_COPY_BYTES = 1 << 18
_SHA256_LENGTH = 64
_EXECUTABLE = 0o111


class PackageCache:
    """Packages by their SHA-256 in one folder; the least recently used go when it is over its size.

    The folder belongs to this cache alone. Thread-safe.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._max_bytes = max_bytes
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
            total = sum(sizes.values())
            for path, size in sizes.items():
                if total <= self._max_bytes:
                    return
                if path != spare:
                    path.unlink(missing_ok=True)
                    total -= size


def unpack(package: int | Path, folder: Path, limits: PackageLimits) -> str:
    """Unpack into the empty `folder`, checked once more; returns the name of what is to be run.

    `package` is a path, or a descriptor that stays open. Raises InvalidPackageError; what was
    unpacked until then stays for the caller to remove with the folder.
    """
    source = os.dup(package) if isinstance(package, int) else package
    with open(source, "rb") as file:  # noqa: PTH123  a descriptor too
        file.seek(0)
        entries = check_package(file, limits)
        with ZipFile(file) as archive:
            for entry in entries:
                _unpack_entry(archive, entry, folder)
    return entry_script([entry.filename for entry in entries])


def _unpack_entry(archive: ZipFile, entry: ZipInfo, folder: Path) -> None:
    target = folder / entry.filename
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if "/" in entry.filename:
        target.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if (entry.external_attr >> 16) & _EXECUTABLE else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    left = entry.file_size
    with open(os.open(target, flags, mode), "wb") as out:  # noqa: PTH123
        try:
            with archive.open(entry) as source:
                while chunk := source.read(_COPY_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise InvalidPackageError(
                            f"the entry {entry.filename[:100]!r} is larger than it says"
                        )
                    out.write(chunk)
        except InvalidPackageError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the node's disk, not the package
            raise InvalidPackageError(
                f"the entry {entry.filename[:100]!r} cannot be unpacked: {error}"
            ) from error
    if left:
        raise InvalidPackageError(f"the entry {entry.filename[:100]!r} is cut short")


def remove_tree(folder: Path) -> None:
    """Remove a folder that a task has written into; it need not exist.

    Raises OSError when something of it stays.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        # Thousands of folders in each other are too deep for Python, and not for rm.
        done = subprocess.run(["rm", "-rf", "--", str(folder)], capture_output=True, check=False)
        if done.returncode:
            raise OSError(
                f"{folder} cannot be removed: {done.stderr[-500:].decode(errors='replace')}"
            ) from None


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
