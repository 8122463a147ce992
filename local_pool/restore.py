"""A backup becomes a pool again: checked, staged beside its place, and put there as a whole or not at all.

What was there is kept under other names. Work that ran at the backup's moment ends blamelessly, and the
restore is recorded (nodepool/workflows/after_restore.py). Redis is not restored: it is emptied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from local_pool import backup_keys
from local_pool.backup import paths_of
from local_pool.backup_keys import JWT, JWT_FILE, STORAGE, STORAGE_FILE, PoolKeys
from local_pool.pool_place import PoolPlace
from local_pool.private_files import write_private
from local_pool.restored_files import Exchange, check_room, give_to_owner, stage_file, stage_storage
from nodepool.domain.backups import manifest as backup
from nodepool.domain.backups.manifest import BackupError, Manifest, StoredFile
from nodepool.domain.errors import CorruptFileError
from nodepool.stores.files.backup_folder import BackupFolder, backup_errors, hash_of
from nodepool.stores.files.encryption import key_of
from nodepool.stores.files.file_names import sealed_name
from nodepool.stores.sql import postgres_tools, schema_swap
from nodepool.stores.sql.database import Database, database_file, translated_errors
from nodepool.stores.sql.ledger.verify import verify_database
from nodepool.stores.sql.migrate import check_known, migrate, newest_revision
from nodepool.stores.sql.snapshots import SQLITE, check_sqlite, into_one_file, kind_of, named_files
from nodepool.workflows import after_restore

_SQLITE_BESIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSource:
    """A backup that was looked at: its manifest and list of files are whole, and the keys are its own."""

    folder: BackupFolder
    manifest: Manifest
    files: dict[str, StoredFile]
    keys: PoolKeys


class BrokerLeft(StrEnum):
    """How the restore left the broker."""

    EMPTY = "empty"
    AWAY = "away"  # it could not be reached
    ANOTHERS = "another's"  # it is another pool's, and was not touched


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDone:
    runs_ended: int
    kept: list[str]  # what was there before, where it is now
    broker: BrokerLeft


def look(folder: BackupFolder, backup_id: str, place: PoolPlace, keys_dir: Path) -> BackupSource:
    """The backup of that id, or the newest. Raises BackupError."""
    ids = folder.ids()
    if not ids:
        raise BackupError(f"there is no whole backup in {folder.root}")
    chosen = backup_id or ids[-1]
    if chosen not in ids:
        raise BackupError(f"there is no whole backup {chosen}; there are {', '.join(ids)}")
    manifest = folder.manifest(chosen)
    check_known(manifest.revision)
    files = folder.index(manifest)
    keys = backup_keys.load(keys_dir, chosen)
    if place.settings.storage_key:
        keys = PoolKeys({**keys.files, STORAGE: place.settings.storage_key.encode()})
    if backup.key_check(keys.storage_key) != manifest.key_check:
        raise BackupError(
            "the storage key is not that of this backup: its files could not be read; give the right one "
            f"with STORAGE_KEY, or the folder of its keys with --keys-dir (looked in {keys_dir})"
        )
    return BackupSource(folder=folder, manifest=manifest, files=files, keys=keys)


def has_data(place: PoolPlace) -> bool:
    """Whether a pool is there already, whatever is in it."""
    path = place.database_path
    tables = path.stat().st_size > 0 if path is not None and path.is_file() else False
    if path is None:
        tables = schema_swap.has_tables(place.database_url)
    folders = [place.storage / name for name in ("packages", "results", "logs")]
    return tables or any(folder.is_dir() and any(folder.iterdir()) for folder in folders)


def restore(
    source: BackupSource, place: PoolPlace, empty_broker: Callable[[], BrokerLeft], *, end_sessions: bool
) -> RestoreDone:
    """Raises BackupError, UnavailableError: then nothing is changed."""
    manifest, kind = source.manifest, kind_of(place.database_url)
    if manifest.database_kind != kind:
        raise BackupError(
            f"the backup is of a database on {manifest.database_kind}, and this pool has {kind}: set "
            "DATABASE_URL or DB_PATH to one of the same kind"
        )
    exchange = Exchange(aside=f"before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    schemas: list[str] = []
    try:
        _check_room(source, place)
        _stage_files(source, place, exchange)
        if kind == SQLITE:
            database = _stage_sqlite(source, place, exchange)
        else:
            database = place.database_url
            schemas.append(_load_postgres(source, place, exchange.aside))
        ended = _finish_database(source, place, database, end_sessions=end_sessions)
        kept = [*map(str, exchange.make()), *(f"schema {name}" for name in schemas if name)]
    except BaseException:
        exchange.undo()
        for name in schemas:
            schema_swap.take_back(place.database_url, name)
        raise
    _hand_over(place)
    left = BrokerLeft.EMPTY if place.has_own_broker else empty_broker()
    return RestoreDone(runs_ended=ended, kept=kept, broker=left)


def _check_room(source: BackupSource, place: PoolPlace) -> None:
    needed = {place.storage: source.manifest.file_bytes}
    if place.database_path is not None:
        parent = place.database_path.resolve().parent
        needed[parent] = needed.get(parent, 0) + 2 * source.manifest.database_bytes
    check_room(needed)


# -- files and keys -------------------------------------------------------------------------------------
def _stage_files(source: BackupSource, place: PoolPlace, exchange: Exchange) -> None:
    with backup_errors(place.storage):
        for folder in (place.data_dir, place.storage):
            if folder is not None:
                folder.mkdir(mode=0o711 if folder == place.data_dir else 0o700, parents=True, exist_ok=True)
    by_folder: dict[str, list[StoredFile]] = {"packages": [], "results": [], "logs": []}
    for file in source.files.values():
        by_folder.setdefault(file.name.partition("/")[0], []).append(file)
    for name, files in by_folder.items():
        # Folder by folder: the storage itself may be a mounted disk, which cannot be renamed.
        staged = exchange.add(place.storage / name)
        below = [StoredFile(f.name.partition("/")[2], f.size_bytes, f.modified_ns, f.sha256) for f in files]
        stage_storage(source.folder, below, staged)
        for file in files:
            _check_opens(source, file, staged / file.name.partition("/")[2])
    # Whose storage it is: the restored pool says so anew.
    exchange.put_away(place.storage / "pool.id")
    _stage_keys(source.keys, place, exchange)
    if place.has_own_broker and place.data_dir is not None:
        exchange.put_away(place.data_dir / "valkey")


def _check_opens(source: BackupSource, file: StoredFile, path: Path) -> None:
    """That the key is the file's, by its header; that it is whole, its hash has said."""
    name = sealed_name(file.name)
    if name:
        try:
            key_of(source.keys.storage_key, name, str(path))
        except CorruptFileError as error:
            raise BackupError(f"{file.name} does not open with the key of the backup: use another") from error


def _stage_keys(keys: PoolKeys, place: PoolPlace, exchange: Exchange) -> None:
    settings, given = place.settings, place.settings.model_fields_set
    if place.data_dir is not None and place.secrets is not None and "task_storage_path" not in given:
        if STORAGE not in keys.files:
            raise BackupError(
                "the backup is of a pool that `hivemind up` did not start, and its key is a file: restore it "
                "with TASK_STORAGE_PATH and DB_PATH set, and without --data-dir"
            )
        staged = exchange.add(place.secrets)
        staged.mkdir(mode=0o700)
        for name, content in keys.files.items():
            if name != STORAGE_FILE:
                write_private(staged / name, content.decode())
        return
    if not settings.storage_key:
        staged = exchange.add(place.storage / STORAGE_FILE)
        with backup_errors(place.storage):
            staged.touch(mode=0o600)
            staged.write_bytes(keys.storage_key)
    if not settings.jwt_secret_key and JWT in keys.files:
        write_private(exchange.add(place.storage / JWT_FILE), keys.files[JWT].decode())


# -- the database ---------------------------------------------------------------------------------------
def _stage_sqlite(source: BackupSource, place: PoolPlace, exchange: Exchange) -> str:
    target = place.database_path
    if target is None:
        raise ValueError("this is no place of an SQLite database")
    manifest = source.manifest
    for ending in _SQLITE_BESIDE:
        exchange.put_away(target.with_name(target.name + ending))
    staged = exchange.add(target)
    for ending in _SQLITE_BESIDE:
        staged.with_name(staged.name + ending).unlink(missing_ok=True)
    copy = source.folder.place_of(manifest.id) / manifest.database_file
    stage_file(copy, staged, manifest.database_sha256, manifest.database_file)
    check_sqlite(staged)
    return f"sqlite:///{staged}"


def _load_postgres(source: BackupSource, place: PoolPlace, aside: str) -> str:
    """The schema that has what was there before; empty where there was nothing."""
    manifest, url = source.manifest, place.database_url
    server = schema_swap.major_of_server(url)
    if server < int(manifest.database_server):
        raise BackupError(
            f"the backup is of PostgreSQL {manifest.database_server}, and this server is {server}: restore "
            "it on the same version or a newer one"
        )
    postgres_tools.find("pg_restore", int(manifest.database_server))
    copy = source.folder.place_of(manifest.id) / manifest.database_file
    if hash_of(copy)[0] != manifest.database_sha256:
        raise BackupError("the database of the backup is damaged: use another backup")
    old = ""
    if schema_swap.has_tables(url):
        old = schema_swap.put_aside(url, aside.removeprefix("before-restore-"))
    try:
        postgres_tools.restore(url, int(manifest.database_server), copy)
    except BaseException:
        schema_swap.take_back(url, old)
        raise
    return old


def _finish_database(source: BackupSource, place: PoolPlace, url: str, *, end_sessions: bool) -> int:
    """Brought to this version, checked, and told of the restore. How many runs ended."""
    database = Database(url)
    try:
        with translated_errors():
            migrate(database)
            _check_database(source, database)
            now = time.time()
            ended = after_restore.settle(
                database, place.settings, source.manifest, now, end_sessions=end_sessions
            )
        report = verify_database(database)
        if source.manifest.ledger_right and not report.is_right:
            raise BackupError(f"the restored ledger is not right: {report.problems[0]}")
    finally:
        database.close()
    if place.database_path is not None:
        into_one_file(Path(str(database_file(url))))
    return ended.attempts


def _check_database(source: BackupSource, database: Database) -> None:
    """That it is the one of the manifest, and that all is there that it names."""
    manifest = source.manifest
    named = database.read(named_files)
    missing = paths_of(named) - source.files.keys() - set(manifest.missing)
    if missing:
        raise BackupError(
            f"{len(missing)} files are missing from the backup that its database names, such as "
            f"{min(missing)}: use another backup"
        )
    report = verify_database(database)
    found, noted = (report.entries, report.head), (manifest.ledger_entries, manifest.ledger_head)
    # Bringing it to this version may have added to it.
    if manifest.revision == newest_revision() and found != noted:
        raise BackupError("the ledger of the backup is not the one that its manifest names: use another")


def _hand_over(place: PoolPlace) -> None:
    """To the user whose folders they are."""
    like = place.data_dir or place.storage
    for path in (place.storage, place.secrets, place.database_path):
        if path is not None:
            give_to_owner(path, like if path != place.database_path else path.parent)
