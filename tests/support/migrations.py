"""Databases of earlier versions, for tests of what a migration makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.config import Config

from nodepool.stores.sql import migrate
from nodepool.stores.sql.database import Database


def alembic_to(database: Database, go: Any, revision: str) -> None:
    """`go` is one of alembic.command: upgrade or downgrade, to this revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    with database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        go(config, revision)
        if database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
        else:
            connection.commit()
