"""What is asked for every upload and in every sweep is found by an index, however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from nodepool.stores.sql import account_facts, storage_accounting
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from tests.support.databases import sqlite_file
from tests.support.stores import add_user

ASKED: dict[str, Callable[[Connection, int], Any]] = {
    "what accepting a task needs to know": lambda c, user: account_facts.account_facts(c, user, "t"),
    "a package that somebody keeps": lambda c, _: storage_accounting.is_kept(c, "a" * 64),
    "a package that its owner keeps": lambda c, user: storage_accounting.is_kept(c, "a" * 64, user, "t"),
    "ended tasks whose storage is due": lambda c, _: storage_accounting.due(c, 10),
    "a balance with what is held": ledger_store.balance,
}


@pytest.mark.parametrize("what", ASKED)
def test_nothing_is_looked_through(tmp_path: Path, what: str) -> None:
    """On SQLite, whose indexes of some rows fit a query only where it names these rows as the index does."""
    database = Database(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}")
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    try:
        user = database.write(add_user)
        database.write(lambda c: ledger_store.open_account(c, user, now=1.0))
        event.listen(database.engine, "before_cursor_execute", note)
        database.read(lambda c: ASKED[what](c, user))
        event.remove(database.engine, "before_cursor_execute", note)
        asked = [it for it in seen if it[0].startswith("SELECT")]
        assert asked
        with database.engine.connect() as connection:
            for statement, parameters in asked:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                plan = "\n".join(str(row[-1]) for row in rows)
                assert "SCAN" not in plan.replace("SCAN CONSTANT ROW", ""), f"{statement}\n{plan}"
                assert "ix_tasks_owner_created" not in plan, "all tasks of an owner would be looked through"
    finally:
        database.close()
