"""The whole database as it was at one moment, while the pool works: to look into, and saved to a file.

SQLite's is copied at once by its own backup interface, under a read lock, which in a database with a
write-ahead log hinders no writer. PostgreSQL's is a transaction that pg_dump shares.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, func, select, text

from nodepool.domain.backups.manifest import BackupError
from nodepool.stores.sql import postgres_tools
from nodepool.stores.sql.database import Database, database_file, translated_errors
from nodepool.stores.sql.migrate import revision_of
from nodepool.stores.sql.tables import KEEPS_PACKAGE, tasks

SQLITE, POSTGRES = "sqlite", "postgresql"
_FILES = {SQLITE: "pool.db", POSTGRES: "pool.dump"}
_BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class DatabaseSnapshot:
    """Look into it by its connection; `save` writes the file. Both see the same moment."""

    kind: str
    server: str  # version of SQLite or of the server
    connection: Connection
    file: Path
    save: Callable[[], None]


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """What the database says that the storage has."""

    packages: frozenset[str]  # SHA-256s
    results: frozenset[str]  # ids of attempts
    tasks: int


def kind_of(url: str) -> str:
    return POSTGRES if database_file(url) is None else SQLITE


@contextmanager
def open_snapshot(url: str, folder: Path) -> Iterator[DatabaseSnapshot]:
    """`folder` is where its file goes. Raises BackupError, UnavailableError, StorageFullError."""
    opened = _sqlite if kind_of(url) == SQLITE else _postgres
    with translated_errors(), opened(url, folder) as snapshot:
        yield snapshot


@contextmanager
def _sqlite(url: str, folder: Path) -> Iterator[DatabaseSnapshot]:
    target = folder / _FILES[SQLITE]
    copy_sqlite(Path(str(database_file(url))), target)
    # Nobody else has the copy, and looking into it is to leave nothing beside it.
    engine = create_engine(f"sqlite:///file:{target}?mode=ro&immutable=1&uri=true")
    try:
        with engine.connect() as connection:
            yield DatabaseSnapshot(SQLITE, sqlite3.sqlite_version, connection, target, lambda: None)
    finally:
        engine.dispose()


def copy_sqlite(source: Path, target: Path) -> None:
    """Replaces the target. Raises BackupError."""
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as opened,
            closing(sqlite3.connect(target)) as copy,
        ):
            opened.backup(copy)
    except sqlite3.Error as error:
        raise BackupError(f"the database {source} could not be copied: {error}") from error


@contextmanager
def _postgres(url: str, folder: Path) -> Iterator[DatabaseSnapshot]:
    target = folder / _FILES[POSTGRES]
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ")
            server = server_major(connection)
            postgres_tools.find("pg_dump", server)
            name = str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())
            yield DatabaseSnapshot(
                POSTGRES,
                str(server),
                connection,
                target,
                lambda: postgres_tools.dump(url, server, name, target),
            )
    finally:
        database.close()


def server_major(connection: Connection) -> int:
    return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def named_files(connection: Connection) -> NamedFiles:
    packages = select(tasks.c.package_sha256).where(KEEPS_PACKAGE).distinct()
    parents = tasks.alias()
    results = (
        select(tasks.c.result_attempt)
        .outerjoin(parents, parents.c.id == tasks.c.parent_id)
        .where(
            tasks.c.result_attempt != "",
            tasks.c.files_removed_at == 0,
            func.coalesce(parents.c.files_removed_at, 0) == 0,
        )
        .distinct()
    )
    return NamedFiles(
        packages=frozenset(connection.execute(packages).scalars()),
        results=frozenset(connection.execute(results).scalars()),
        tasks=int(connection.execute(select(func.count()).select_from(tasks)).scalar_one()),
    )


def check_sqlite(path: Path) -> None:
    """Raises BackupError where the file is damaged."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection:
            said = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise BackupError(f"the database of the backup is damaged: {said}")


def into_one_file(path: Path) -> None:
    """Takes the write-ahead log into the database, which nobody else has open."""
    with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def revision_in(url: str) -> str:
    """The revision of a database; empty where it has no tables of ours."""
    database = Database(url)
    try:
        with translated_errors():
            return revision_of(database)
    finally:
        database.close()
