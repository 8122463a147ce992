"""PostgreSQL is restarted, killed and cut off under reads and writes: all is kept, and once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from nodepool.domain.errors import UnavailableError
from nodepool.stores.sql import database as databases, lost_connections
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.lost_connections import remove_old_marks
from nodepool.stores.sql.migrate import migrate
from tests.support.postgres_server import PostgresServer
from tests.support.processes import open_folder
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until
from worker_agent.trash import remove_tree

pytestmark = pytest.mark.postgres
WRITERS = 6
PATIENCE_SECONDS = 60.0
# Every row may be there once, and what it adds is added once.
TABLES = """
CREATE TABLE payments (id TEXT PRIMARY KEY);
CREATE TABLE account (balance INTEGER NOT NULL);
INSERT INTO account VALUES (0);
CREATE TABLE slow (id TEXT PRIMARY KEY);
CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION held_up();
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    folder = open_folder()
    made = PostgresServer(folder / "server")
    try:
        made.start()
        setup = Database(made.url)
        migrate(setup)
        setup.close()
        with psycopg.connect(made.url.replace("+psycopg", "")) as connection:
            connection.execute(TABLES)
        yield made
    finally:
        made.close()
        remove_tree(folder)


@pytest.fixture
def line(server: PostgresServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def database(server: PostgresServer, line: TcpProxy) -> Iterator[Database]:
    url = make_url(server.url).set(port=line.port).render_as_string(hide_password=False)
    made = Database(url, patience_seconds=PATIENCE_SECONDS)
    yield made
    made.close()


def pay(connection: Connection, payment: str) -> int:
    connection.execute(text("INSERT INTO payments VALUES (:id)"), {"id": payment})
    return int(connection.execute(text("UPDATE account SET balance = balance + 1 RETURNING 1")).scalar_one())


def balance(connection: Connection) -> tuple[int, int]:
    query = "SELECT balance, (SELECT count(*) FROM payments) FROM account"
    row = connection.execute(text(query)).one()
    return int(row[0]), int(row[1])


def marks(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM write_marks")).scalar_one())


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=lambda it: it.name)
def test_what_is_written_while_the_server_ends_and_comes_back_is_there_once(
    server: PostgresServer, database: Database, ends: signal.Signals
) -> None:
    before, _ = database.read(balance)
    enough = threading.Event()

    def writer(number: int) -> int:
        done = 0
        while not enough.is_set():
            name = f"{ends.name}-{number}-{done}"
            done += database.write(lambda c, name=name: pay(c, name))
            assert database.read(balance)[0] > before
        return done

    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(writer, number) for number in range(WRITERS)]
        for _ in range(2):
            now = database.read(balance)[0]
            wait_until(lambda now=now: database.read(balance)[0] > now + 20, "they write")
            server.end(ends)
            server.start()
        now = database.read(balance)[0]
        wait_until(lambda now=now: database.read(balance)[0] > now + 20, "they write again")
        enough.set()
        done = sum(future.result(60) for future in writers)
    assert database.read(balance)[0] - before == done
    assert len(set(database.read(balance))) == 1


@contextmanager
def commits_held_up(server: PostgresServer) -> Iterator[None]:
    """COMMITs of what is written `slowly` wait at the server meanwhile, however long that is."""
    with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
        yield


def slowly(runs: list[str], name: str, connection: Connection) -> str:
    """Its COMMIT can be held up."""
    runs.append(name)
    connection.execute(text("INSERT INTO slow VALUES (:id)"), {"id": name})
    return f"{name} by run {len(runs)}"


def commits(connection: Connection) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%COMMIT' AND state = 'active'"
    return int(connection.execute(text(query)).scalar_one())


def count(connection: Connection, name: str) -> int:
    query = "SELECT count(*) FROM slow WHERE id = :id"
    return int(connection.execute(text(query), {"id": name}).scalar_one())


def test_a_commit_whose_answer_is_lost_is_found_and_not_done_again(
    server: PostgresServer, database: Database, line: TcpProxy
) -> None:
    aside, runs = Database(server.url), list[str]()
    with ThreadPoolExecutor(1) as pool:
        with commits_held_up(server):
            written = pool.submit(database.write, lambda c: slowly(runs, "kept", c))
            wait_until(lambda: aside.read(commits), "it commits")
            line.reset_lines()
        assert written.result(30) == "kept by run 1"
    assert (runs, aside.read(lambda c: count(c, "kept"))) == (["kept"], 1)
    aside.close()


def test_a_commit_that_was_undone_is_done_again(
    server: PostgresServer, database: Database, line: TcpProxy
) -> None:
    aside, runs = Database(server.url), list[str]()
    with ThreadPoolExecutor(1) as pool:
        with commits_held_up(server):
            written = pool.submit(database.write, lambda c: slowly(runs, "undone", c))
            wait_until(lambda: aside.read(commits), "it commits")
            ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%COMMIT'"
            aside.read(lambda c: c.execute(text(ends)).all())
        assert written.result(30) == "undone by run 2"
    assert (len(runs), aside.read(lambda c: count(c, "undone"))) == (2, 1)
    aside.close()


def test_a_transaction_of_somebody_who_stands_still_holds_nobody_up(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "SESSION", lost_connections.SESSION.replace("'5s'", "'300ms'"))
    still = Database(server.url, patience_seconds=PATIENCE_SECONDS)
    other = Database(server.url, patience_seconds=PATIENCE_SECONDS)
    begun, free = threading.Event(), threading.Event()

    def stands_still(connection: Connection) -> int:
        done = pay(connection, "still")
        if not begun.is_set():
            begun.set()
            free.wait(60)  # as a process that is stopped
        return done

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(still.write, stands_still)
        assert begun.wait(60)
        assert other.write(lambda c: pay(c, "other")) == 1
        free.set()
        assert written.result(30) == 1
    assert len(set(other.read(balance))) == 1
    still.close()
    other.close()


def test_a_long_outage_is_told_and_nobody_waits_in_it(server: PostgresServer) -> None:
    database = Database(server.url, patience_seconds=0.5)
    database.read(balance)
    server.end(signal.SIGINT)
    try:
        with pytest.raises(UnavailableError):
            database.write(lambda c: pay(c, "never"))
        began = time.process_time()
        for _ in range(20):
            with pytest.raises(UnavailableError):
                database.read(balance)
        assert time.process_time() - began < 5
        with pytest.raises(UnavailableError):
            database.write(lambda c: pay(c, "never"), patient=False)
    finally:
        server.start()
    assert database.write(lambda c: pay(c, "after")) == 1
    database.close()


def test_a_write_in_doubt_that_nobody_can_tell_of_says_so(
    server: PostgresServer, line: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(server.url).set(port=line.port).render_as_string(hide_password=False)
    database, aside = Database(url, patience_seconds=0.2), Database(server.url)
    with ThreadPoolExecutor(1) as pool:
        with commits_held_up(server):
            written = pool.submit(database.write, lambda c: slowly([], "in doubt", c))
            wait_until(lambda: aside.read(commits), "it commits")
            line.refuse()
        with pytest.raises(UnavailableError, match="whether it was is not known"):
            written.result(30)
    database.close()
    aside.close()


def test_marks_stay_as_few_as_connections_and_old_ones_go(server: PostgresServer, database: Database) -> None:
    for number in range(20):
        database.write(lambda c, number=number: pay(c, f"mark {number}"))
    before = database.read(marks)
    for number in range(20, 40):
        database.write(lambda c, number=number: pay(c, f"mark {number}"))
    assert database.read(marks) == before
    database.write(lambda c: c.execute(text("UPDATE write_marks SET at = at - 90000")))
    assert database.write(remove_old_marks) >= before - 1  # what it took out of its own


def test_a_server_that_takes_no_writes_any_more_is_left_for_the_one_that_does(database: Database) -> None:
    """A failover: connections to the server that was the first one stay open."""
    becomes_standby = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    database.write(lambda c: c.execute(text(becomes_standby)))
    assert database.write(lambda c: pay(c, "after the failover")) == 1


def test_two_who_wait_for_each_other_are_both_served(database: Database) -> None:
    both = threading.Barrier(2, timeout=60)
    first_run = [True, True]

    def crosses(number: int) -> int:
        def work(connection: Connection) -> int:
            for place in (number, 1 - number):
                query = "SELECT pg_advisory_xact_lock(:place)"
                connection.execute(text(query), {"place": place})
                if place == number and first_run[number]:
                    first_run[number] = False
                    both.wait()
            return pay(connection, f"crossed {number}")

        return database.write(work)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(crosses, range(2))) == [1, 1]
