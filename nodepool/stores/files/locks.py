"""Locks over all threads and processes that use a folder: 256 files, each for names that begin alike."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodepool.stores.files.disk import disk_errors

_PREFIX = 2


class FileLocks:
    """Names are hexadecimal. A lock ends with its process, whatever happens to that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def shared(self, name: str) -> Iterator[None]:
        """Waits for whoever has it exclusively."""
        with self._locked(name, fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Raises BlockingIOError where anybody has it."""
        with self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        with disk_errors():
            lock = os.open(self._folder / name[:_PREFIX], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)
