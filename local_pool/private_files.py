"""Files of a data directory: secrets that only their owner reads, and the lock that keeps it to one pool.

Knows nothing of parts or processes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

SECRET_BYTES = 32


class DataDirInUseError(RuntimeError):
    """Another pool runs on this data directory."""


def private_dir(path: Path) -> Path:
    """The directory, made where it is missing, with mode 0700."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replaces the file whole or not at all; it is never readable by others, not even half-written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def kept_secret(path: Path) -> str:
    """The secret in the file; made on the first call, and the same ever after."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    path.chmod(0o600)
    secret = path.read_text(encoding="utf-8").strip()
    if not secret:
        raise ValueError(f"{path} is empty; delete it to have a new secret made")
    return secret


class DirLock:
    """Held for the life of the process; the kernel lets go of it however the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = path.read_text(encoding="utf-8").strip()
            os.close(self._descriptor)
            raise DataDirInUseError(
                f"another pool runs on {path.parent} (process {holder or 'unknown'}); "
                "stop it, or give this one another --data-dir"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
