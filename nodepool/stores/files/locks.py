"""Locks over all threads and processes that use a folder: 256 files, each for names that begin alike."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nodepool.domain.errors import UnavailableError
from nodepool.stores.files.disk import disk_errors

_PREFIX = 2
REMOVALS = "removals"  # those of packages are hexadecimal
_RETRY_SECONDS = 0.05


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
    def shared_at_once(self, name: str) -> Iterator[None]:
        """Raises BlockingIOError where somebody has it exclusively."""
        with self._locked(name, fcntl.LOCK_SH | fcntl.LOCK_NB):
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
            if os.geteuid() == 0:
                # A command of root must not lock the pool's own user out.
                owner = self._folder.stat()
                os.fchown(lock, owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)


@contextmanager
def removals_held(root: Path, seconds: float) -> Iterator[None]:
    """Nobody removes files of the store meanwhile that SQL named before; whoever does is waited for, so long.

    Raises UnavailableError.
    """
    locks, deadline = FileLocks(root / "locks"), time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locks.exclusive(REMOVALS))
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError("files are being removed just now: try again later") from error
            time.sleep(_RETRY_SECONDS)
        yield
