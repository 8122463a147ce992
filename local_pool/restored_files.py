"""Files of a backup beside the places that they are to take, and the exchange: all of them or none.

Staged files are whole, on the disk and checked before anything that is there is moved; what is moved is kept
under another name, and goes back where a later step fails. Knows no database.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nodepool.domain.backups.manifest import BackupError, Manifest, StoredFile
from nodepool.stores.files.backup_folder import BackupFolder, backup_errors, copy_hashed, hash_of
from nodepool.stores.files.disk import sync_folder

STAGED = ".restore-part"


@dataclass(slots=True)
class Exchange:
    """Staged things and their places. `aside` ends the names of what was there before."""

    aside: str
    places: list[tuple[Path, Path]] = field(default_factory=list)  # staged, target
    _moved: list[tuple[Path, Path]] = field(default_factory=list)

    def add(self, target: Path) -> Path:
        """Where to stage what is to take this place."""
        staged = target.with_name(f"{target.name}{STAGED}")
        _remove(staged)
        self.places.append((staged, target))
        return staged

    def put_away(self, target: Path) -> None:
        """What is there gets out of the way, and nothing takes its place."""
        self.places.append((target.with_name(f"{target.name}{STAGED}"), target))

    def make(self) -> list[Path]:
        """What was there before, under its new names. Raises BackupError with everything as it was."""
        kept = []
        try:
            for staged, target in self.places:
                old = target.with_name(f"{target.name}.{self.aside}")
                if os.path.lexists(target):
                    self._move(target, old)
                    kept.append(old)
                if os.path.lexists(staged):
                    self._move(staged, target)
        except OSError as error:
            self.undo()
            raise BackupError(f"nothing was changed: {error}") from error
        for parent in {target.parent for _, target in self.places if target.parent.is_dir()}:
            sync_folder(parent)
        return kept

    def _move(self, source: Path, target: Path) -> None:
        source.rename(target)
        self._moved.append((source, target))

    def undo(self) -> None:
        """Back to how it was; what was staged goes."""
        for source, target in reversed(self._moved):
            with suppress(OSError):
                target.rename(source)
        self._moved.clear()
        self.discard()

    def discard(self) -> None:
        for staged, _ in self.places:
            _remove(staged)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_room(needed: dict[Path, int]) -> None:
    """Raises BackupError where the disks of these folders have not so many bytes free."""
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, size in needed.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        device = there.stat().st_dev
        path, before = by_disk.get(device, (there, 0))
        by_disk[device] = path, before + size
    for path, size in by_disk.values():
        free = shutil.disk_usage(path).free
        if free < size:
            raise BackupError(
                f"the disk of {path} has {free >> 20} MiB free, and the backup needs {(size >> 20) + 1}: "
                "nothing was changed"
            )


def stage_file(source: Path, target: Path, sha256: str, what: str) -> None:
    """A copy that has this hash. Raises BackupError."""
    with backup_errors(target.parent):
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            opened = source.open("rb")
        except FileNotFoundError as error:
            raise BackupError(f"{what} is not in the backup any more: use another backup") from error
        with opened:
            found, _ = copy_hashed(opened.fileno(), target)
    if found != sha256:
        raise BackupError(f"{what} is damaged in the backup (its hash is another): use another backup")


def stage_storage(folder: BackupFolder, files: Iterable[StoredFile], root: Path) -> None:
    """`root` takes the files as the storage had them."""
    with backup_errors(root):
        root.mkdir(mode=0o700, parents=True)
    for file in files:
        stage_file(folder.object_path(file.sha256), root / file.name, file.sha256, file.name)
        os.utime(root / file.name, ns=(file.modified_ns, file.modified_ns))


def check_objects(folder: BackupFolder, manifest: Manifest, files: Iterable[StoredFile]) -> list[str]:
    """Of the files and the database of a backup those that are damaged or gone, by name."""
    wanted = [(folder.object_path(file.sha256), file.sha256, file.name) for file in files]
    database = folder.place_of(manifest.id) / manifest.database_file
    wrong = []
    for path, sha256, name in [(database, manifest.database_sha256, manifest.database_file), *wanted]:
        try:
            if hash_of(path)[0] != sha256:
                wrong.append(name)
        except OSError:
            wrong.append(name)
    return wrong


def give_to_owner(path: Path, like: Path) -> None:
    """Root restores for the user whose pool it is."""
    if os.geteuid() != 0 or not path.exists():
        return
    owner = like.stat()
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)
