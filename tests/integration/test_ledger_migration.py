"""Balances from before the ledger: nobody has more or less afterwards, and the chain is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import text

from nodepool.stores.sql import migrate
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.verify import snapshot
from tests.support.migrations import alembic_to
from tests.support.money import account, spendable

OLD = {1: ("ada", 250), 2: ("bob", 0), 3: ("carol", 10**15)}


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Database]:
    """A database of the version before, with users, of whom one has no account at all."""
    database = Database(empty_database_url)
    alembic_to(database, command.upgrade, "0002")
    with database.engine.begin() as connection:
        for user_id, (name, balance) in {**OLD, 4: ("dora", None)}.items():
            connection.execute(
                text(
                    "INSERT INTO users (id, username, password_hash, credit_score, created_at) "
                    "VALUES (:id, :name, '', 50, :at)"
                ),
                {"id": user_id, "name": name, "at": 1000.5 + user_id},
            )
            if balance is not None:
                connection.execute(
                    text("INSERT INTO accounts (user_id, balance) VALUES (:id, :balance)"),
                    {"id": user_id, "balance": balance},
                )
    yield database
    database.close()


def test_old_balances_become_grants_and_the_ledger_is_right(old: Database) -> None:
    migrate.migrate(old)
    assert old.read(lambda c: [spendable(c, user) for user in (1, 2, 3, 4)]) == [250, 0, 10**15, 0]
    assert old.read(lambda c: account(c, "mint")) == -(10**15) - 250
    with snapshot(old) as connection:
        assert ledger_store.verify(connection) == []
    (line,) = old.read(lambda c: ledger_store.statement(c, 1)).lines
    assert (line.entry_id, line.amount, line.counterparty, line.at) == ("grant:1", 250, "mint", 1004.5)


def test_the_way_back_keeps_the_balances(old: Database) -> None:
    migrate.migrate(old)
    alembic_to(old, command.downgrade, "0002")
    query = text("SELECT user_id, balance FROM accounts ORDER BY user_id")
    assert [tuple(row) for row in old.read(lambda c: c.execute(query).all())] == [
        (1, 250),
        (2, 0),
        (3, 10**15),
        (4, 0),
    ]
    migrate.migrate(old)
    with snapshot(old) as connection:
        assert ledger_store.verify(connection) == []


def test_more_than_a_ledger_can_hold_is_refused_and_changes_nothing(old: Database) -> None:
    with old.engine.begin() as connection:
        connection.execute(text("UPDATE accounts SET balance = 9223372036854775807 WHERE user_id = 1"))
    with pytest.raises(RuntimeError, match="lower some first"):
        migrate.migrate(old)
    assert old.read(lambda c: c.execute(text("SELECT count(*) FROM accounts")).scalar_one()) == 3
