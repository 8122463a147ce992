"""Whether somebody else has a database open just now, and whose it is. Changes nothing in it that is kept.

For commands that replace a database or its tables. Knows no pool and no data directory.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database, database_file, translated_errors

_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def others_connected(url: str) -> str:
    """Who has it open, in words; empty where nobody has, or where there is none yet."""
    path = database_file(url)
    if path is not None:
        return _open_file(Path(path)) if path and Path(path).is_file() else ""
    database = Database(url)
    try:
        with translated_errors(), database.engine.connect() as connection:
            others = int(connection.execute(text(_OTHERS)).scalar_one())
    finally:
        database.close()
    return f"{others} other connections to it" if others else ""


def pool_id_of(url: str) -> str:
    """Which pool a database is; empty where there is none, or it is damaged, or older than such ids."""
    path = database_file(url)
    if path is not None and not Path(path).is_file():
        return ""
    database = Database(url)
    try:
        return database.read(pool_records.pool_id)
    except (NodePoolError, SQLAlchemyError):
        return ""
    finally:
        database.close()


def _open_file(path: Path) -> str:
    """Every connection to a database with a write-ahead log keeps a lock; the last one alone may end it."""
    connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.0, isolation_level=None)
    try:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            # The pool turns it on again when it opens the database.
            connection.execute("PRAGMA journal_mode=DELETE")
        else:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return "another program has the file open"
        raise UnavailableError(f"the database {path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError:
        return ""  # damaged: no pool works on it, and this may be why it is replaced
    finally:
        connection.close()
    return ""
