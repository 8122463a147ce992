"""The few things the file store does to a disk: write durably, name atomically, translate errors.

It knows nothing of packages, results or encryption. No message to a user has a path in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from nodepool.domain.errors import StorageFullError, UnavailableError

PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
# By one sweep, so that none takes long.
MOST_SWEPT = 1000
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raises StorageFullError or UnavailableError for the OSErrors inside."""
    try:
        yield
    except OSError as error:
        _log.error("The file store could not use its disk: %s", error, extra={"action": "disk_failed"})
        if error.errno in _FULL:
            raise StorageFullError from error
        raise UnavailableError(
            "The pool's storage cannot be used just now; try again in a moment."
        ) from error


def make_folder(path: Path) -> None:
    """The folder is there, private and durable; its parent must be there."""
    path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class NewFile:
    """A file under a temporary name until it is kept; `discard` after any failure leaves nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{secrets.token_hex(16)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, _PRIVATE_FILE)
        # Says that its writer lives; some file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def write_start(self, data: bytes) -> None:
        """Overwrites the first bytes."""
        written = os.pwrite(self._descriptor, data, 0)
        if written != len(data):
            raise OSError(errno.EIO, "short write")

    def sync(self) -> None:
        """All bytes are on the disk; nothing can be written after."""
        os.fsync(self._descriptor)
        self._close()

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def names_in(folder: Path, older_than: float) -> list[str]:
    """Files that were last written before that Unix time; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _written_before(entry, older_than))
    except FileNotFoundError:
        return []


def _written_before(entry: os.DirEntry[str], time: float) -> bool:
    try:
        return entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < time
    except FileNotFoundError:
        return False


def sweep_left(folder: Path, older_than_seconds: float, now: float) -> int:
    """Removes the files of a folder of NewFiles whose writers died, and that were not written for a while.

    `now` is Unix time. Returns how many that were, MOST_SWEPT at the most: the next sweep has the others.
    """
    removed = 0
    for path in folder.iterdir():
        if removed == MOST_SWEPT:
            break
        with contextlib.suppress(FileNotFoundError):
            if now - path.stat().st_mtime > older_than_seconds and not _is_written(path):
                path.unlink()
                removed += 1
    return removed


def _is_written(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here: its age alone says it
        return False
    finally:
        os.close(descriptor)
    return False
