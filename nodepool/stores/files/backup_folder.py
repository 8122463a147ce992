"""A folder of backups: each with a manifest of its own, and the files of all of them once, by their hash.

`objects/` has contents that never change, so that what an earlier backup has is not copied again.
`backups/ID/` is named so when it is whole and on the disk; what was not finished is called `.ID.part`, is
never read, and goes with the next backup. Knows no database and no key.
"""

from __future__ import annotations

import calendar
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodepool.domain.backups import manifest as backup
from nodepool.domain.backups.manifest import BackupError, Manifest, StoredFile
from nodepool.stores.files.disk import sync_folder

MANIFEST, INDEX = "manifest.json", "files.jsonl"
_CHUNK_BYTES = 1 << 20
_STAMP = "%Y%m%dT%H%M%SZ"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ABOUT = """Backups of a HiveMind node pool, made by `hivemind admin backup`.

backups/  one folder for each, with its database and a manifest
objects/  packages and results, encrypted as the pool had them; several backups share them

The keys are not here, and belong elsewhere: with them, whoever gets at this folder reads everything.
Restore with `hivemind admin restore`; `--check` only looks whether that would work.
"""


class BackupFolder:
    """For one process at a time, which has it `locked`. Raises BackupError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = root / "objects"
        self._backups = root / "backups"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder is there, and nobody else works in it."""
        with backup_errors(self.root):
            for folder in (self.root, self._objects, self._backups):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BackupError(f"another backup or restore works in {self.root}: wait for its end") from error
        try:
            yield
        finally:
            os.close(descriptor)

    # -- what is there -------------------------------------------------------------------------------
    def ids(self) -> list[str]:
        """Of whole backups, the oldest first."""
        if not self._backups.is_dir():
            return []
        return sorted(path.name for path in self._backups.iterdir() if backup.is_backup_id(path.name))

    def place_of(self, backup_id: str) -> Path:
        return self._backups / backup_id

    def manifest(self, backup_id: str) -> Manifest:
        found = backup.read_manifest(self._text(backup_id, MANIFEST))
        if found.id != backup_id:
            raise BackupError(f"the manifest in {backup_id} is that of another backup, {found.id}")
        return found

    def index(self, manifest: Manifest) -> dict[str, StoredFile]:
        text = self._text(manifest.id, INDEX)
        if hashlib.sha256(text.encode()).hexdigest() != manifest.index_sha256:
            raise BackupError("the backup's list of files is damaged: use another backup")
        return backup.read_index(text)

    def _text(self, backup_id: str, name: str) -> str:
        try:
            return (self.place_of(backup_id) / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BackupError(f"{name} of backup {backup_id} cannot be read: {error}") from error

    def object_path(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256

    def has(self, file: StoredFile) -> bool:
        """By its size: a cut one is copied again. The hash is looked at when it is restored or checked."""
        try:
            return self.object_path(file.sha256).stat().st_size == file.size_bytes
        except FileNotFoundError:
            return False

    # -- a new one -----------------------------------------------------------------------------------
    def begin(self, now: float) -> tuple[str, Path]:
        """The new backup's id, and a folder for it that is none yet. What was left unfinished goes."""
        with backup_errors(self.root):
            for left in (*self._backups.glob(".*.part"), *self._objects.glob("*/.*.part")):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()
            (self.root / "README").write_text(_ABOUT, encoding="utf-8")
            backup_id = new_id(now, self.ids())
            part = self._backups / f".{backup_id}.part"
            part.mkdir(mode=0o700)
        return backup_id, part

    def put(self, path: Path, name: str) -> StoredFile | None:
        """Copies a file of the storage, unless its content is here; None where it has gone."""
        with backup_errors(self.root):
            try:
                source = path.open("rb")
            except FileNotFoundError:
                return None
            with source:
                stat = os.fstat(source.fileno())
                draft = self._objects / f".{secrets.token_hex(8)}.part"
                try:
                    sha256, size = copy_hashed(source.fileno(), draft)
                    file = StoredFile(name, size, stat.st_mtime_ns, sha256)
                    target = self.object_path(sha256)
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    draft.replace(target)
                finally:
                    draft.unlink(missing_ok=True)
        return file

    def finish(self, part: Path, manifest: Manifest, files: Iterable[StoredFile]) -> None:
        """From now on it is a backup."""
        with backup_errors(self.root):
            for folder in self._objects.iterdir():
                if folder.is_dir():
                    sync_folder(folder)
            sync_folder(self._objects)
            _write(part / INDEX, backup.index_text(files))
            _write(part / MANIFEST, backup.manifest_text(manifest))
            sync_folder(part)
            part.rename(self.place_of(manifest.id))
            sync_folder(self._backups)

    def abandon(self, part: Path) -> None:
        shutil.rmtree(part, ignore_errors=True)

    def prune(self, keep: int) -> list[str]:
        """Deletes all backups but the newest, and the files that no backup has any more; whose they were."""
        gone = backup.to_be_deleted(self.ids(), keep)
        if not gone:
            return []
        with backup_errors(self.root):
            for backup_id in gone:
                (self.place_of(backup_id) / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(self.place_of(backup_id))
            needed = {file.sha256 for kept in self.ids() for file in self.index(self.manifest(kept)).values()}
            for path in self._objects.glob("??/*"):
                if path.name not in needed:
                    path.unlink()
        return gone


def new_id(now: float, others: Iterable[str]) -> str:
    """Sorts behind all others, also where they are of the same moment or the clock went back."""
    newest = max(others, default="")
    made = _id_of(now)
    if made > newest:
        return made
    return _id_of(calendar.timegm(time.strptime(newest.partition("-")[0], _STAMP)) + 1)


def _id_of(at: float) -> str:
    return f"{time.strftime(_STAMP, time.gmtime(at))}-{int(at % 1 * 1_000_000):06d}{secrets.token_hex(1)}"


@contextmanager
def backup_errors(root: Path) -> Iterator[None]:
    """Raises BackupError for the OSErrors inside."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BackupError(
                f"the disk of {root} is full: nothing is changed; make room there, and do it again"
            ) from error
        raise BackupError(f"{root} cannot be used: {error}") from error


def copy_hashed(source: int, target: Path) -> tuple[str, int]:
    """(SHA-256, bytes) of what a descriptor gives; the copy is on the disk, for its owner only."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while chunk := os.read(source, _CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


def hash_of(path: Path) -> tuple[str, int]:
    """(SHA-256, bytes) of a file. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        path.chmod(0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
