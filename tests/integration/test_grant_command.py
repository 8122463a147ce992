"""`hivemind admin grant --all-without`: whoever never had CPT gets some, once."""

from __future__ import annotations

from click.testing import CliRunner
from sqlalchemy import select

from local_pool.grant_command import grant
from nodepool.stores.sql import users as user_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from nodepool.stores.sql.tables import admin_acts, ledger_accounts, users
from nodepool.stores.sql.users import NewUser


def _grant(url: str, *arguments: str) -> str:
    done = CliRunner().invoke(grant, arguments, env={"DATABASE_URL": url})
    assert done.exit_code == 0, done.output
    return done.output


def _balances(database: Database) -> dict[str, int]:
    query = select(users.c.username, ledger_accounts.c.balance).join_from(
        users, ledger_accounts, ledger_accounts.c.user_id == users.c.id
    )
    return {row.username: row.balance for row in database.read(lambda c: c.execute(query).all())}


def test_those_who_never_had_any_get_it_once(database_url: str) -> None:
    database = Database(database_url)
    for name, cpt in (("old", 0), ("older", 0), ("rich", 70)):
        database.write(lambda c: user_store.add(c, NewUser(name, "x", "user", 50, cpt), 1.0))  # noqa: B023
    assert "2 accounts would get 500 CPT each" in _grant(database_url, "500", "--all-without", "--dry-run")
    assert _balances(database) == {"old": 0, "older": 0, "rich": 70}
    assert "2 accounts got 500 CPT each" in _grant(database_url, "500", "--all-without")
    # Again, and with another amount: nobody is without any more.
    assert "0 accounts got" in _grant(database_url, "500", "--all-without")
    assert "0 accounts got" in _grant(database_url, "900", "--all-without")
    assert _balances(database) == {"old": 500, "older": 500, "rich": 70}
    assert verify_database(database).problems == []
    acts = database.read(lambda c: c.execute(select(admin_acts.c.action, admin_acts.c.subject)).all())
    assert sorted(map(tuple, acts)) == [("grant", "old"), ("grant", "older")]
    database.close()


def test_it_says_who_is_meant(database_url: str) -> None:
    done = CliRunner().invoke(grant, ["500"], env={"DATABASE_URL": database_url})
    assert done.exit_code == 2
    assert "--all-without" in done.output
