"""PostgreSQL's tables put aside, so that others take their place, and back where that fails.

They stay in a schema of another name until the operator drops it. Knows nothing of what the tables hold.
"""

from __future__ import annotations

import re

from sqlalchemy import inspect, text

from nodepool.stores.sql.database import Database, translated_errors
from nodepool.stores.sql.postgres_tools import OLD_SCHEMA
from nodepool.stores.sql.snapshots import server_major

_SCHEMA = re.compile(r"[a-z0-9_]+")


def has_tables(url: str) -> bool:
    database = Database(url)
    try:
        with translated_errors(), database.engine.connect() as connection:
            return bool(inspect(connection).get_table_names())
    finally:
        database.close()


def major_of_server(url: str) -> int:
    database = Database(url)
    try:
        with translated_errors(), database.engine.connect() as connection:
            return server_major(connection)
    finally:
        database.close()


def put_aside(url: str, suffix: str) -> str:
    """The schema that has the tables now; an empty `public` takes its place."""
    name = f"{OLD_SCHEMA}{suffix}".lower()
    if not _SCHEMA.fullmatch(name):
        raise ValueError(f"{name} is no schema's name")
    _run(url, f"ALTER SCHEMA public RENAME TO {name}", "CREATE SCHEMA public")
    return name


def take_back(url: str, name: str) -> None:
    """What came since is dropped; without a name there was nothing before."""
    if name:
        _run(url, "DROP SCHEMA public CASCADE", f"ALTER SCHEMA {name} RENAME TO public")
    else:
        _run(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def _run(url: str, *statements: str) -> None:
    database = Database(url)
    try:
        with translated_errors(), database.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
    finally:
        database.close()
