"""Brings a database to the present shape.

Alembic takes longer to load than everything else that a process needs from SQL, and nearly every start finds
the shape that it expects: so that is looked at first, and Alembic is loaded where something is to be done.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from nodepool.stores.sql.database import Database

SCRIPTS = Path(__file__).parent / "migrations"
# Two gateways that start at once must not migrate at once.
_LOCK_ID = 7_246_911


def newest_revision() -> str:
    """The id of the last migration, which its file's name begins with: v0001_first_tables.py is 0001."""
    return max(path.name[1:5] for path in (SCRIPTS / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py"))


def migrate(database: Database) -> None:
    """Run every migration that has not run yet. Safe to call from several processes at once."""
    if not _is_current(database):
        _upgrade(database)


def _is_current(database: Database) -> bool:
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return found == [newest_revision()]


def _upgrade(database: Database) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
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
