"""A backup of a pool that works: a moment of its database, and every file that the database names then.

Files are copied first, without hindering anybody. Then, for the short time that the rest takes, nobody
removes files; the database is looked at, and what has come since is copied. A file that is named and not
there is looked for again at a later moment: one that is missing then, too, was lost by the pool itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from local_pool import backup_keys
from local_pool.backup_keys import PoolKeys
from local_pool.pool_place import PoolPlace
from nodepool.domain.backups import manifest as backup
from nodepool.domain.backups.manifest import BackupError, Manifest, StoredFile
from nodepool.stores.files.backup_folder import BackupFolder, hash_of
from nodepool.stores.files.file_names import package_file, result_file
from nodepool.stores.files.locks import removals_held
from nodepool.stores.sql.ledger.report import LedgerReport
from nodepool.stores.sql.ledger.verify import examine
from nodepool.stores.sql.migrate import check_known
from nodepool.stores.sql.snapshots import (
    DatabaseSnapshot,
    NamedFiles,
    named_files,
    open_snapshot,
    revision_in,
)

# Of the storage, what is not the pool's memory: on its way, or locks, or keys.
_LEFT_OUT = frozenset({"incoming", "locks"})
_MOMENTS = 5
_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Made:
    manifest: Manifest
    keys: Path | None
    copied: int
    copied_bytes: int
    ledger_problems: list[str]
    deleted: list[str]


def make(
    place: PoolPlace, folder: BackupFolder, keys: PoolKeys, keys_dir: Path | None, keep: int, now: float
) -> Made:
    """Without `keys_dir` the keys are not kept. `now` is Unix time.

    Raises BackupError, UnavailableError: then nothing is new, and earlier backups are as they were.
    """
    revision = revision_in(place.database_url)
    check_known(revision)
    if not revision:
        raise BackupError("the database has no tables of a pool: there is nothing to back up yet")
    check = backup.key_check(keys.storage_key)
    copier = FileCopier(place.storage, folder)
    copier.copy_new()
    backup_id, part = folder.begin(now)
    try:
        missing, snapshot, named, report = _moment(place, copier, part)
        sha256, size = hash_of(part / snapshot.file.name)
        files = [copier.files[name] for name in sorted(copier.files)]
        manifest = Manifest(
            format=backup.FORMAT,
            id=backup_id,
            made_at=now,
            revision=revision,
            database_kind=snapshot.kind,
            database_server=snapshot.server,
            database_file=snapshot.file.name,
            database_bytes=size,
            database_sha256=sha256,
            index_sha256=backup.index_hash(files),
            files=len(files),
            file_bytes=sum(file.size_bytes for file in files),
            missing=tuple(sorted(missing)),
            key_check=check,
            tasks=named.tasks,
            ledger_entries=report.entries,
            ledger_head=report.head,
            ledger_right=report.is_right,
        )
        kept = backup_keys.save(keys, keys_dir, backup_id) if keys_dir is not None else None
        folder.finish(part, manifest, files)
    except BaseException:
        folder.abandon(part)
        if keys_dir is not None:
            backup_keys.forget(keys_dir, [backup_id])
        raise
    deleted = folder.prune(keep)
    if keys_dir is not None:
        backup_keys.forget(keys_dir, deleted)
    return Made(manifest, kept, copier.copied, copier.copied_bytes, report.problems, deleted)


def _moment(
    place: PoolPlace, copier: FileCopier, part: Path
) -> tuple[set[str], DatabaseSnapshot, NamedFiles, LedgerReport]:
    """A moment of which every file is here that was there."""
    missing_before: set[str] = set()
    for _ in range(_MOMENTS):
        with ExitStack() as held:
            if (place.storage / "locks").is_dir():  # else no pool has used it
                held.enter_context(removals_held(place.storage, _WAIT_SECONDS))
            with open_snapshot(place.database_url, part) as snapshot:
                named = named_files(snapshot.connection)
                missing = copier.copy_rest(paths_of(named))
                held.close()
                if missing <= missing_before:
                    report = examine(snapshot.connection)
                    snapshot.save()
                    return missing, snapshot, named, report
        missing_before = missing
    raise BackupError(
        "files were removed all the while, faster than they could be copied: try again when the pool has "
        "less to remove"
    )


def paths_of(named: NamedFiles) -> set[str]:
    """Where the files lie that the database names."""
    return {*map(package_file, named.packages), *map(result_file, named.results)}


class FileCopier:
    """The storage's files, into a folder of backups; what the newest backup has is not read again."""

    def __init__(self, storage: Path, folder: BackupFolder) -> None:
        self._storage = storage
        self._folder = folder
        self._known = _newest_index(folder)
        self.files: dict[str, StoredFile] = {}  # of the backup
        self.copied = self.copied_bytes = 0

    def copy_new(self) -> None:
        """Whatever is there now."""
        for name, stat in _files_below(self._storage):
            self._copy(name, stat)

    def copy_rest(self, named: set[str]) -> set[str]:
        """What came since; what has gone and is not named is forgotten. Those that are named and nowhere."""
        there = set()
        for name, stat in _files_below(self._storage):
            self._copy(name, stat)
            there.add(name)
        for name in self.files.keys() - there - named:
            del self.files[name]
        return named - self.files.keys()

    def _copy(self, name: str, stat: os.stat_result) -> None:
        before = self.files.get(name) or self._known.get(name)
        as_it_was = before is not None and _same(before, stat) and self._folder.has(before)
        file = before if as_it_was else self._folder.put(self._storage / name, name)
        if file is None:
            return
        self.files[name] = file
        if not as_it_was:
            self.copied += 1
            self.copied_bytes += file.size_bytes


def _same(file: StoredFile, stat: os.stat_result) -> bool:
    return (file.size_bytes, file.modified_ns) == (stat.st_size, stat.st_mtime_ns)


def _newest_index(folder: BackupFolder) -> dict[str, StoredFile]:
    """Nothing where it cannot be read: then all is copied anew."""
    for backup_id in reversed(folder.ids()):
        try:
            return folder.index(folder.manifest(backup_id))
        except BackupError:
            continue
    return {}


def _files_below(storage: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Names relative to the storage. What goes meanwhile is left out."""
    if not storage.is_dir():
        return
    for top in sorted(storage.iterdir()):
        if top.name in _LEFT_OUT or top.name.startswith(".") or not top.is_dir() or top.is_symlink():
            continue
        yield from _below(top, top.name)


def _below(folder: Path, name: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        below = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), below)
        elif entry.is_file(follow_symlinks=False) and backup.is_file_name(below):
            try:
                yield below, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
