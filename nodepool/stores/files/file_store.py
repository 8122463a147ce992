"""Packages, results and logs on disk, encrypted, each file whole and durable or not there at all.

Any number of threads and processes may use one folder. The store knows nothing of tasks, users
or who may read what; a package is named by its SHA-256, a result by its attempt.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, TypeAlias

from nodepool.domain.errors import CorruptFileError, NotFoundError
from nodepool.stores.files.disk import (
    PRIVATE_FOLDER,
    NewFile,
    disk_errors,
    make_folder,
    names_in,
    sweep_left,
    sync_folder,
)
from nodepool.stores.files.encryption import (
    KEY_BYTES,
    Sealed,
    key_from_secret,
    key_of,
    plain_bytes,
    seal,
    unseal,
)
from nodepool.stores.files.file_names import (
    SHA256,
    log_file,
    log_name,
    package_file,
    package_name,
    result_file,
    result_name,
)
from nodepool.stores.files.locks import REMOVALS, FileLocks
from nodepool.stores.files.spool import SealedSpool
from nodepool.stores.files.writer import Writer

_NO_PACKAGE = "There is no such package."
_KNOWN_PACKAGES = 65_536
# Packages, results and logs lie in so many folders each.
FOLDERS = 256
StoredKind: TypeAlias = Literal["packages", "results", "logs"]
_SUFFIXES: Mapping[StoredKind, str] = {"packages": "", "results": ".zip", "logs": ".log"}


class FileStore:
    """Every method may raise UnavailableError; those that write, StorageFullError as well."""

    def __init__(self, root: Path, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key must have {KEY_BYTES} bytes")
        self._key = key
        self._root = root
        self._packages = root / "packages"
        self._results = root / "results"
        self._logs = root / "logs"
        self._incoming = root / "incoming"
        self._owner = root / "pool.id"
        self._lock = threading.Lock()
        self._durable_folders: set[Path] = set()
        self._known: OrderedDict[str, None] = OrderedDict()
        # Not beside the packages: their folders may go.
        self._locks = FileLocks(root / "locks")
        with disk_errors():
            root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            for folder in (self._packages, self._results, self._logs, self._incoming, root / "locks"):
                make_folder(folder)

    def put_package(self, data: bytes) -> str:
        """The SHA-256 of `data`, which is on the disk now; a package that is there is not written again."""
        sha = hashlib.sha256(data).hexdigest()
        if not self._has_package(sha):
            self._put(self._package_path(sha), package_name(sha), data)
            self._remember(sha)
        return sha

    def package_writer(self) -> Writer:
        """Its commit gives the SHA-256 and the size."""
        return Writer(self._key, self._incoming, self._commit_package)

    def open_package(self, sha: str) -> Iterator[bytes]:
        """Chunks of at most 64 KiB. Raises NotFoundError, and CorruptFileError here or while reading."""
        return self._open(self._package_path(_checked(sha)), package_name(sha), _NO_PACKAGE)

    def package_bytes(self, sha: str) -> bytes:
        return b"".join(self.open_package(sha))

    def delete_package(self, sha: str) -> None:
        """Nothing happens when there is none. The caller sees to it that no task needs it."""
        if not SHA256.fullmatch(sha):
            return
        with self._lock:
            self._known.pop(sha, None)
        with disk_errors():
            self._package_path(sha).unlink(missing_ok=True)

    def using_package(self, sha: str) -> AbstractContextManager[None]:
        """Nobody removes the package meanwhile: hold it while one is put here, until its task is kept."""
        return self._locks.shared(_checked(sha))

    def removing(self) -> AbstractContextManager[None]:
        """Held by whoever removes files that SQL names no more. Raises BlockingIOError while a backup copies
        what SQL named a moment ago: they are removed later."""
        return self._locks.shared_at_once(REMOVALS)

    def delete_unneeded(self, sha: str, unneeded: Callable[[], bool]) -> bool:
        """delete_package, where nobody is about to need it; False while somebody may be."""
        try:
            with self.removing(), self._locks.exclusive(_checked(sha)):
                if unneeded():
                    self.delete_package(sha)
        except BlockingIOError:
            return False
        return True

    def result_writer(self, attempt_id: str) -> Writer:
        """A second result of the same attempt takes the first one's place, whole, at its commit."""
        path = self._result_path(attempt_id)

        def commit(writer: Writer, _sha: str) -> None:
            self._finish(writer, path, result_name(attempt_id))

        return Writer(self._key, self._incoming, commit)

    def open_result(self, attempt_id: str) -> Iterator[bytes]:
        """Chunks of at most 64 KiB. Raises NotFoundError, and CorruptFileError here or while reading."""
        path = self._result_path(attempt_id)
        return self._open(path, result_name(attempt_id), "There is no result of this attempt.")

    def result_bytes(self, attempt_id: str) -> bytes:
        return b"".join(self.open_result(attempt_id))

    def sealed_result(self, attempt_id: str) -> Sealed:
        """For another process to open this one result. Raises NotFoundError, CorruptFileError."""
        path = self._result_path(attempt_id)
        return self._sealed(path, result_name(attempt_id), "There is no result of this attempt.")

    def sealed_package(self, sha: str) -> Sealed:
        """For another process to open this one package. Raises NotFoundError, CorruptFileError."""
        return self._sealed(self._package_path(_checked(sha)), package_name(sha), _NO_PACKAGE)

    def result_size(self, attempt_id: str) -> int:
        """Its length in bytes; 0 when there is none."""
        with disk_errors():
            try:
                return plain_bytes(self._result_path(attempt_id).stat().st_size)
            except FileNotFoundError:
                return 0

    def has_package(self, sha: str) -> bool:
        return bool(SHA256.fullmatch(sha)) and self._has_package(sha)

    def spool(self) -> SealedSpool:
        """Where what is on its way is collected until it is whole; what of it is on the disk is encrypted."""
        return SealedSpool(self._incoming)

    def delete_result(self, attempt_id: str, *, with_log: bool = True) -> None:
        """Nothing happens when there is none."""
        with disk_errors():
            self._result_path(attempt_id).unlink(missing_ok=True)
            if with_log:
                self._log_path(attempt_id).unlink(missing_ok=True)

    def put_log(self, attempt_id: str, output: bytes) -> None:
        """Output of an attempt whose result may not have it, or goes; another log takes the first one's
        place."""
        self._put(self._log_path(attempt_id), log_name(attempt_id), output)

    def log_bytes(self, attempt_id: str) -> bytes:
        """Raises NotFoundError, and CorruptFileError."""
        path = self._log_path(attempt_id)
        return b"".join(self._open(path, log_name(attempt_id), "There is no output of this attempt."))

    def delete_log(self, attempt_id: str) -> None:
        """Nothing happens when there is none."""
        with disk_errors():
            self._log_path(attempt_id).unlink(missing_ok=True)

    def listed(self, kind: StoredKind, number: int, older_than: float) -> list[str]:
        """Packages by SHA-256, results and logs by their attempts: those in one of FOLDERS folders that were
        written before that Unix time."""
        root = {"packages": self._packages, "results": self._results, "logs": self._logs}[kind]
        with disk_errors():
            return [_named(kind, name) for name in names_in(root / f"{number:02x}", older_than)]

    def belongs_to(self, pool: str) -> bool:
        """Whether this is the store of the pool of this name; the first one that asks has it."""
        with disk_errors():
            try:
                return self._owner.read_text() == pool
            except FileNotFoundError:
                file = NewFile(self._incoming)
                file.write(pool.encode())
                self._keep(file, self._owner)
                return True

    def sweep_temporary(self, older_than_seconds: float, now: float) -> int:
        """Removes what writers that died left; `now` is Unix time. How many files that were."""
        with disk_errors():
            return sweep_left(self._incoming, older_than_seconds, now)

    def _package_path(self, sha: str) -> Path:
        return self._root / package_file(sha)

    def _result_path(self, attempt_id: str) -> Path:
        return self._root / result_file(attempt_id)

    def _log_path(self, attempt_id: str) -> Path:
        return self._root / log_file(attempt_id)

    def _has_package(self, sha: str) -> bool:
        path = self._package_path(sha)
        with disk_errors():
            try:
                path.stat()
            except FileNotFoundError:
                return False
            with self._lock:
                if sha in self._known:
                    self._known.move_to_end(sha)
                    return True
            # Another process may have named it a moment ago and not made the name durable yet.
            sync_folder(path.parent)
            self._ensure_folder(path.parent)
        self._remember(sha)
        return True

    def _remember(self, sha: str) -> None:
        with self._lock:
            self._known[sha] = None
            if len(self._known) > _KNOWN_PACKAGES:
                self._known.popitem(last=False)

    def _commit_package(self, writer: Writer, sha: str) -> None:
        if not self._has_package(sha):
            self._finish(writer, self._package_path(sha), package_name(sha))
            self._remember(sha)

    def _finish(self, writer: Writer, path: Path, name: str) -> None:
        if writer.file is None:
            self._put(path, name, writer.rest)
        else:
            with disk_errors():
                writer.file.write(writer.sealer.frame(writer.rest, final=True))
                writer.file.write_start(writer.sealer.header(name))
                self._keep(writer.file, path)

    def _put(self, path: Path, name: str, data: bytes) -> None:
        sealed = seal(self._key, name, data)
        with disk_errors():
            file = NewFile(self._incoming)
            try:
                file.write(sealed)
                self._keep(file, path)
            except BaseException:
                file.discard()
                raise

    def _keep(self, file: NewFile, path: Path) -> None:
        file.sync()
        self._ensure_folder(path.parent)
        try:
            file.path.rename(path)
        except FileNotFoundError:  # the folder was removed under us
            self._durable_folders.discard(path.parent)
            self._ensure_folder(path.parent)
            file.path.rename(path)
        sync_folder(path.parent)

    def _ensure_folder(self, folder: Path) -> None:
        if folder not in self._durable_folders:
            make_folder(folder)
            self._durable_folders.add(folder)

    def _sealed(self, path: Path, name: str, missing: str) -> Sealed:
        with disk_errors():
            try:
                return key_of(self._key, name, str(path))
            except FileNotFoundError as error:
                raise NotFoundError(missing) from error

    def _open(self, path: Path, name: str, missing: str) -> Iterator[bytes]:
        chunks = self._chunks(path, name, missing)
        next(
            chunks
        )  # opens the file and checks its header now; a started generator closes it whatever happens
        return chunks

    def _chunks(self, path: Path, name: str, missing: str) -> Iterator[bytes]:
        with disk_errors():
            try:
                file = path.open("rb")
            except FileNotFoundError as error:
                raise NotFoundError(missing) from error
            with file:
                yield from unseal(self._key, name, file)


def load_or_make_key(secret: str, path: Path) -> bytes:
    """The store's 32-byte key: from the secret, or kept in the file, which is made (0600) when missing.

    Processes that start together get the same key. Raises CorruptFileError when the file is no key.
    """
    if secret:
        return key_from_secret(secret)
    with disk_errors():
        if not path.exists():
            path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            _make_key(path)
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise CorruptFileError(f"The key file of the store, {path.name}, does not have {KEY_BYTES} bytes.")
    return key


def _make_key(path: Path) -> None:
    file = NewFile(path.parent)
    try:
        file.write(os.urandom(KEY_BYTES))
        file.sync()
        # A link never replaces: of two processes, the first one's key stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(file.path)
    finally:
        file.discard()
    sync_folder(path.parent)


def _checked(sha: str) -> str:
    if not SHA256.fullmatch(sha):
        raise NotFoundError(_NO_PACKAGE)
    return sha


def _named(kind: StoredKind, name: str) -> str:
    """The package or attempt whose file this is."""
    return name if kind == "packages" else name.removesuffix(_SUFFIXES[kind]).replace("@", ":")
