"""Brings a database to the present shape."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from nodepool.stores.sql.database import Database

# Two gateways that start at once must not migrate at once.
_LOCK_ID = 7_246_911


def migrate(database: Database) -> None:
    """Run every migration that has not run yet. Safe to call from several processes at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
        else:
            connection.commit()
