"""The check of the ledger: a right one passes, and whatever is changed in any row is found and named."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, Table, delete, insert, select, text, update

from local_pool.ledger_verify_command import verify as verify_command
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.api import Provider
from nodepool.stores.sql.ledger.triggers import drop_triggers
from nodepool.stores.sql.ledger.verify import snapshot
from nodepool.stores.sql.tables import holds, ledger_accounts, ledger_entries, ledger_head, tasks
from tests.support.money import add_held_task, add_payer
from tests.support.stores import add_user, migrated

TABLES = {
    "ledger_accounts": ledger_accounts,
    "ledger_entries": ledger_entries,
    "ledger_head": ledger_head,
    "holds": holds,
}
# What rows are found by, beside the columns that are changed.
KEYS = {"ledger_accounts": "id", "ledger_entries": "seq", "ledger_head": "id", "holds": "task_id"}


def _fill(connection: Connection) -> None:
    """Some of everything: transfers, holds that are held, posted with and without a fee, and voided."""
    ada, bob = add_payer(connection, "ada"), add_payer(connection, "bob")
    add_payer(connection, "poor", grant=0)
    accounts = ledger.user_account(ada), ledger.user_account(bob)
    entry = NewEntry(ledger.transfer_id(ada, "x"), EntryKind.TRANSFER, *accounts, 5, memo="for lunch")
    ledger_store.move(connection, [entry], 1.0)
    add_held_task(connection, ada, "waits", created_at=2.0)
    for number, (state, minutes, fee) in enumerate(
        [("SUCCEEDED", 1, 0), ("FAILED", 10, 10), ("SUCCEEDED", 4, 10), ("STOPPED", 0, 0)]
    ):
        task_id = add_held_task(
            connection, ada, f"task{number}", state=state, fee_percent=fee, replicas=1 + number % 2
        )
        providers = [Provider(bob)] if minutes else []
        ledger_store.settle(connection, task_id, f"{task_id}:1", providers, minutes, 10.0 + number)
    ledger_store.reverse(connection, "pay:task2:1", 30.0)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as opened:
        opened.write(_fill)
        yield opened


def _problems(database: Database) -> list[str]:
    with snapshot(database) as connection:
        return ledger_store.verify(connection)


def _unlock(connection: Connection) -> None:
    """What somebody with the database's password can do: the triggers, constraints and references go."""
    drop_triggers(connection)
    if connection.dialect.name == "postgresql":
        for table in TABLES:
            constraints = connection.execute(
                text("SELECT conname FROM pg_constraint WHERE conrelid = cast(:t as regclass)"), {"t": table}
            ).scalars()
            for name in constraints.all():
                connection.exec_driver_sql(f'ALTER TABLE {table} DROP CONSTRAINT IF EXISTS "{name}" CASCADE')


def _lenient(database: Database, work: Any) -> None:
    if not database.is_sqlite:
        with database.engine.begin() as connection:
            _unlock(connection)
            work(connection)
        return
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
        _unlock(connection)
        work(connection)
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=OFF")


def test_a_ledger_with_some_of_everything_is_right(database: Database) -> None:
    assert _problems(database) == []
    report = ledger_store.verify_database(database)
    assert (report.accounts, report.holds, report.minted) == (7, 5, 2000)
    assert report.entries == database.read(lambda c: c.execute(select(ledger_head.c.seq)).scalar_one())


def _changed(value: Any) -> list[Any]:
    """The value with one bit or one character changed, at every place of a short one."""
    if value is None:
        return [1.0]
    if isinstance(value, str):
        places = range(min(len(value), 70))
        return [value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :] for at in places] or ["x"]
    if isinstance(value, float):
        return [value + 1, value + 2**-20, -value - 1]
    return [value + 1, value - 1, value ^ 256, -value - 1]


def _columns() -> list[tuple[str, str]]:
    return [(name, column.name) for name, table in TABLES.items() for column in table.columns]


@pytest.mark.parametrize(("table_name", "column_name"), _columns())
def test_a_changed_byte_is_found_in_every_column_of_every_table(
    database: Database, table_name: str, column_name: str
) -> None:
    table = TABLES[table_name]
    key, column = table.c[KEYS[table_name]], table.c[column_name]
    dice = random.Random(column_name)
    rows = database.read(lambda c: c.execute(select(table).order_by(key)).all())
    for row in dice.sample(rows, min(len(rows), 3)):
        before = getattr(row, column_name)
        choices = _changed(before)
        if column_name == "user_id" and before is None:
            choices = [1]
        if column is key or column_name in ("id", "user_id"):
            # Not another row's: those are unique, and one could not be told from the other afterwards.
            taken = {getattr(other, column_name) for other in rows}
            spare = "another" if isinstance(before, str) else 77_777
            choices = [choice for choice in choices if choice not in taken] or [spare]
        for value in dice.sample(choices, min(len(choices), 2)):
            _set(database, table, column, getattr(row, key.name), value)
            found = _problems(database)
            assert found, f"{table_name}.{column_name} of {row} became {value!r}, and nobody noticed"
            there = value if column is key else getattr(row, key.name)
            _set(database, table, column, there, before)
            assert _problems(database) == []


def _set(database: Database, table: Table, column: Any, key: Any, value: Any) -> None:
    name = KEYS[table.name]
    _lenient(
        database,
        lambda c: c.execute(update(table).where(table.c[name] == key).values({column.name: value})),
    )


@pytest.mark.parametrize("table_name", list(TABLES))
def test_a_missing_row_is_found(database: Database, table_name: str) -> None:
    table = TABLES[table_name]
    key = table.c[KEYS[table_name]]
    rows = database.read(lambda c: c.execute(select(table).order_by(key)).all())
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        _lenient(database, lambda c: c.execute(delete(table).where(key == getattr(row, key.name))))  # noqa: B023
        assert _problems(database)
        _lenient(database, lambda c: c.execute(insert(table).values(row._asdict())))  # noqa: B023
        assert _problems(database) == []


def test_an_entry_written_past_the_pool_is_found(database: Database) -> None:
    head = database.read(lambda c: c.execute(select(ledger_head)).one())
    forged = {
        "seq": head.seq + 1, "id": "mint:mine", "kind": "grant", "debit_account": "mint",
        "credit_account": "user:2", "amount": 5, "debit_balance": -2005, "credit_balance": 5,
        "created_at": 50.0, "hash": "0" * 64,
    }  # fmt: skip
    database.write(lambda c: c.execute(insert(ledger_entries).values(forged)))
    found = " ".join(_problems(database))
    assert f"entry {head.seq + 1} (mint:mine) is not what was written" in found
    assert "does not name its newest entry" in found


def test_it_says_in_words_where_it_breaks(database: Database) -> None:
    _lenient(
        database,
        lambda c: c.execute(
            update(ledger_entries).where(ledger_entries.c.id == "hold:task1").values(amount=1)
        ),
    )
    found = _problems(database)
    assert any("(hold:task1) is not what was written" in problem for problem in found)
    assert any("the hold of task task1 is not what entry" in problem for problem in found)
    _lenient(
        database,
        lambda c: c.execute(update(ledger_accounts).where(ledger_accounts.c.id == "fee").values(balance=9)),
    )
    assert any(
        problem.startswith("account fee has 9 CPT; its entries make") for problem in _problems(database)
    )


@pytest.mark.parametrize(
    ("task_id", "values", "words"),
    [
        ("waits", {"state": "SUCCEEDED"}, "is still held, and its task is SUCCEEDED"),
        ("task0", {"state": "RUNNING"}, "has ended, and its task is RUNNING"),
        ("task0", {"price_per_minute": 4}, "do not agree on price"),
        ("task0", {"owner_id": 2}, "is of user:1, and its task of user 2"),
    ],
)
def test_a_hold_that_does_not_fit_its_task_is_found(
    database: Database, task_id: str, values: dict[str, Any], words: str
) -> None:
    database.write(lambda c: c.execute(update(tasks).where(tasks.c.id == task_id).values(values)))
    assert any(words in problem for problem in _problems(database))


def test_a_user_without_an_account_and_a_task_that_never_held_are_found(database: Database) -> None:
    database.write(lambda c: add_user(c, "stray"))
    database.write(lambda c: c.execute(delete(holds).where(holds.c.task_id == "waits")))
    found = " ".join(_problems(database))
    assert "user 4 has no account" in found
    assert "task waits has a price and never held it" in found
    assert "(hold:waits) belongs to a hold that is not there" in found


def test_pay_that_waits_for_a_result_that_nobody_checks_is_found(database: Database) -> None:
    def forgotten(connection: Connection) -> None:
        add_held_task(connection, 1, "unchecked", state="SUCCEEDED")
        keeps = [Provider(2, account=ledger.PENDING)]
        ledger_store.settle(connection, "unchecked", "unchecked:1", keeps, 2, 40.0)

    database.write(forgotten)
    assert _problems(database) == [
        "account pending has 6 CPT, and results that are not verified yet keep back 0"
    ]


def test_so_many_problems_are_cut_short(database: Database) -> None:
    def many(connection: Connection) -> None:
        for number in range(150):
            add_user(connection, f"stray{number}")

    database.write(many)
    assert len(_problems(database)) == 101


def test_a_large_ledger_is_read_in_pieces(database: Database) -> None:
    def more(connection: Connection) -> None:
        users = [add_payer(connection, f"user{number}", grant=50) for number in range(600)]
        for number, user_id in enumerate(users):
            add_held_task(connection, user_id, f"more{number}", state="SUCCEEDED")
            ledger_store.settle(connection, f"more{number}", f"more{number}:1", [Provider(1)], 3, 99.0)

    database.write(more)
    report = ledger_store.verify_database(database)
    assert report.problems == []
    assert (report.accounts, report.holds) == (607, 605)


# -- the command -------------------------------------------------------------------------------------
def _run(*arguments: str, **environment: str) -> tuple[int, str]:
    result = CliRunner().invoke(verify_command, list(arguments), env=environment)
    return result.exit_code, result.output


def test_the_command_says_that_all_is_right_and_that_it_is_not(database: Database, database_url: str) -> None:
    code, output = _run(DATABASE_URL=database_url)
    entries = ledger_store.verify_database(database).entries
    assert code == 0
    kept = database.read(pool_records.last_verification)
    assert kept is not None
    assert (kept.is_right, kept.entries) == (True, entries)
    assert f"the ledger is right: {entries} entries, 7 accounts, 5 holds, 2000 CPT minted" in output
    _lenient(database, lambda c: c.execute(update(holds).where(holds.c.task_id == "task0").values(posted=2)))
    code, output = _run("--json", DATABASE_URL=database_url)
    answer = json.loads(output)
    assert (code, answer["right"], answer["entries"]) == (1, False, entries)
    kept = database.read(pool_records.last_verification)
    assert kept is not None
    assert not kept.is_right
    assert any("the hold of task task0 of" in problem for problem in answer["problems"])
    code, output = _run(DATABASE_URL=database_url)
    assert (code, "NOT right" in output) == (1, True)


def test_the_command_makes_no_database_and_names_what_it_looked_for(tmp_path: Path) -> None:
    code, output = _run("--data-dir", str(tmp_path))
    assert (code, "pool.db" in output) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_when_the_file_is_no_database_or_has_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "pool.db").write_bytes(b"not a database" * 1000)
    code, output = _run("--data-dir", str(tmp_path))
    assert code == 1
    assert "Traceback" not in output
    assert output.strip()
