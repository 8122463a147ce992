"""The database's door on SQLite and PostgreSQL: migrations, group commit, many writers, a full disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.errors import InvalidInputError, NotFoundError, StorageFullError, UnavailableError
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import SCRIPTS, migrate, newest_revision
from nodepool.stores.sql.tables import metadata, users
from tests.support.databases import sqlite_file
from tests.support.environment import ROOT
from tests.support.stores import add_user, migrated

WRITER = """
import sys
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import users
from sqlalchemy import update
database = Database(sys.argv[1])
for _ in range(int(sys.argv[2])):
    database.write(lambda c: c.execute(update(users).values(credit_score=users.c.credit_score + 1)))
database.close()
"""


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with migrated(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}") as opened:
        yield opened


def _names(database: Database) -> set[str]:
    return set(database.read(lambda connection: connection.execute(select(users.c.username)).scalars().all()))


def test_migrations_from_nothing_give_what_the_tables_say(empty_database_url: str) -> None:
    with (
        migrated(empty_database_url) as database,
        database.engine.connect() as connection,
    ):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        script = ScriptDirectory(str(SCRIPTS))
        assert script.get_current_head() == context.get_current_revision() == newest_revision()


def test_migrating_again_and_from_several_threads_changes_nothing(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(3)]
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(migrate, databases))
        databases[0].write(add_user)
        migrate(databases[1])
        assert _names(databases[2]) == {"owner"}
    finally:
        for database in databases:
            database.close()


def test_who_is_told_that_a_name_is_taken_finds_who_has_it(database: Database) -> None:
    """Also when both come in one commit: the failure is told when the other one can be read."""

    def add(round_: int) -> bool:
        try:
            database.write(lambda connection: add_user(connection, f"user{round_}"))
        except IntegrityError:
            return f"user{round_}" in _names(database)
        return True

    with ThreadPoolExecutor(20) as threads:
        for round_ in range(20):
            assert all(threads.map(add, [round_] * 20))


def test_a_write_that_fails_does_not_undo_its_neighbours(database: Database) -> None:
    go = threading.Barrier(40)

    def write(number: int) -> None:
        def work(connection: Connection) -> None:
            add_user(connection, f"user{number}")
            if number % 4 == 1:
                raise NotFoundError(f"{number}")
            if number % 4 == 2:
                raise RuntimeError(f"{number}")
            if number % 4 == 3:
                add_user(connection, f"user{number}")  # the name is taken now

        go.wait(60)
        database.write(work)

    with ThreadPoolExecutor(40) as threads:
        futures = [threads.submit(write, number) for number in range(40)]
    kinds = [None, NotFoundError, RuntimeError, IntegrityError]
    for number, future in enumerate(futures):
        expected = kinds[number % 4]
        error = future.exception()
        assert error is None if expected is None else isinstance(error, expected)
    assert _names(database) == {f"user{number}" for number in range(0, 40, 4)}


def test_a_write_gives_back_what_its_work_returns(database: Database) -> None:
    assert database.write(add_user) == database.read(lambda c: c.execute(select(users.c.id)).scalar_one())


def test_many_threads_and_two_processes_lose_no_update(database: Database, database_url: str) -> None:
    database.write(lambda connection: add_user(connection, credit_score=0))
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, database_url, "40"], cwd=ROOT) for _ in range(2)
    ]

    def add(_: int) -> None:
        database.write(lambda c: c.execute(update(users).values(credit_score=users.c.credit_score + 1)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(120)))
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert database.read(lambda c: c.execute(select(users.c.credit_score)).scalar_one()) == 200


def test_what_was_written_is_there_when_the_database_is_opened_again(database_url: str) -> None:
    with migrated(database_url) as database:
        database.write(add_user)
    with migrated(database_url) as database:
        assert _names(database) == {"owner"}


def test_a_full_disk_is_told_and_the_database_works_on(sqlite: Database) -> None:
    sqlite.write(add_user)

    def limit(connection: Connection, pages: int) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    def fill(connection: Connection) -> None:
        # The limit belongs to the connection, so it is set where it is felt.
        limit(connection, connection.exec_driver_sql("PRAGMA page_count").scalar_one())
        for number in range(2000):
            add_user(connection, f"filler{number:060}")

    for _ in range(3):
        with pytest.raises(StorageFullError):
            sqlite.write(fill)
        assert _names(sqlite) == {"owner"}
    with sqlite.engine.connect() as connection:
        limit(connection, 1 << 20)
    sqlite.write(lambda connection: add_user(connection, "later"))
    assert _names(sqlite) == {"owner", "later"}


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("code", "expected"), [("53100", StorageFullError), ("53300", UnavailableError)], ids=["disk", "server"]
)
def test_what_is_full_is_told_by_postgresqls_code_and_not_by_its_words(
    postgres_url: str, code: str, expected: type[Exception]
) -> None:
    raised = f"DO $$ BEGIN RAISE EXCEPTION 'something is full' USING ERRCODE = '{code}'; END $$"
    database = Database(postgres_url)
    with closing(database), pytest.raises(expected):
        database.write(lambda connection: connection.exec_driver_sql(raised))


def test_a_nul_in_a_text_is_the_callers_mistake_or_unknown(database: Database) -> None:
    with pytest.raises((InvalidInputError, NotFoundError)):
        database.read(lambda connection: task_store.find(connection, "a\0b"))


def test_a_closed_database_refuses_writes_and_answers_those_before(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'users.db'}")
    migrate(database)
    started, outcomes = threading.Event(), []

    def write(number: int) -> str:
        try:
            database.write(lambda connection: add_user(connection, f"user{number}"))
        except UnavailableError:
            return "refused"
        finally:
            started.set()
        return "kept"

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(write, number) for number in range(200)]
        assert started.wait(60)
        database.close()
        outcomes = [future.result(timeout=60) for future in futures]
    with migrated(str(database.engine.url)) as again:
        assert len(_names(again)) == outcomes.count("kept")
    with pytest.raises(UnavailableError):
        database.write(add_user)


def test_a_database_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing?connect_timeout=2")
    try:
        with pytest.raises(UnavailableError):
            database.read(lambda connection: connection.execute(text("SELECT 1")))
        with pytest.raises(UnavailableError):
            database.write(lambda connection: connection.execute(select(func.now())))
    finally:
        database.close()
