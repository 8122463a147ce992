"""A few facts about the pool as a whole, one row each: its id, when the ledger was verified, that SQL can be
written.

Functions of a connection.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, text, update

from nodepool.stores.sql.pool_tables import pool_records

_LEDGER = "ledger verify"
_WRITTEN = "write probe"
_POOL_ID = "pool id"


@dataclass(frozen=True, slots=True)
class LedgerVerification:
    """The last time that somebody worked the ledger out again."""

    at: float
    is_right: bool
    entries: int


def keep_verification(connection: Connection, verification: LedgerVerification) -> None:
    value = json.dumps({"right": verification.is_right, "entries": verification.entries})
    _keep(connection, _LEDGER, verification.at, value)


def last_verification(connection: Connection) -> LedgerVerification | None:
    """None: never."""
    query = select(pool_records.c.at, pool_records.c.value).where(pool_records.c.name == _LEDGER)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    value = json.loads(row.value)
    return LedgerVerification(row.at, bool(value["right"]), int(value["entries"]))


def pool_id(connection: Connection) -> str:
    """Which pool this database is, also after a restore; empty where the row was lost."""
    query = select(pool_records.c.value).where(pool_records.c.name == _POOL_ID)
    return connection.execute(query).scalar_one_or_none() or ""


def make_pool_id(connection: Connection) -> str:
    """The migration has made one: this is for a database that lost it."""
    _keep(connection, _POOL_ID, 0.0, secrets.token_hex(16))
    return pool_id(connection)


def probe_write(connection: Connection, now: float) -> None:
    """The smallest write that shows that others would be kept, too."""
    _keep(connection, _WRITTEN, now, "")


def server_time(connection: Connection) -> float | None:
    """Unix seconds, by the clock of the database's server; None where it has none of its own."""
    if connection.dialect.name == "sqlite":
        return None
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _keep(connection: Connection, name: str, at: float, value: str) -> None:
    """Both rows are there from the migration on, so that two writers never insert one at once."""
    changed = connection.execute(
        update(pool_records).where(pool_records.c.name == name).values(at=at, value=value)
    )
    if not changed.rowcount:
        connection.execute(insert(pool_records).values(name=name, at=at, value=value))
