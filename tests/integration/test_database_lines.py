"""Connections to PostgreSQL that are there but dead: the kernel's bounds, and answers that do not come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from nodepool import keepalive
from nodepool.domain.errors import UnavailableError
from nodepool.stores.sql import silent_lines
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.silent_lines import SilentLines
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import wait_until


class _AskedError(Exception):
    """Instead of a connection."""


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """What the driver is given for a URL."""
    found: dict[str, Any] = {}

    def connect(_self: SilentLines, *_: Any, **options: Any) -> None:
        found.update(options)
        raise _AskedError

    def ask(url: str) -> dict[str, Any]:
        monkeypatch.setattr(SilentLines, "connect", connect)
        database = Database(url)
        with pytest.raises(_AskedError):
            database.engine.connect()
        database.close()
        return found

    return ask


def test_the_kernel_ends_what_nobody_confirms(asked_for: Callable[[str], dict[str, Any]]) -> None:
    options = asked_for("postgresql://ada@db.example.org/pool")
    assert options["tcp_user_timeout"] == keepalive.UNCONFIRMED_SECONDS * 1000
    probed = options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"]
    assert (options["keepalives"], probed <= 10) == (1, True)
    assert options["connect_timeout"] <= 5


def test_what_the_url_says_goes_first(asked_for: Callable[[str], dict[str, Any]]) -> None:
    options = asked_for("postgresql://ada@db.example.org/pool?connect_timeout=20&tcp_user_timeout=60000")
    assert (options["connect_timeout"], options["tcp_user_timeout"]) == ("20", "60000")
    assert options["keepalives"] == 1


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_lines, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(silent_lines, "AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(silent_lines, "_PERIOD_SECONDS", 0.1)


@pytest.fixture
def line(postgres_url: str) -> Iterator[TcpProxy]:
    with TcpProxy(make_url(postgres_url).port or 5432) as proxy:
        yield proxy


@pytest.fixture
def database(postgres_url: str, line: TcpProxy, impatience: None) -> Iterator[Database]:
    made = Database(
        make_url(postgres_url).set(host="127.0.0.1", port=line.port).render_as_string(hide_password=False)
    )
    yield made
    made.close()


def _one(connection: Connection) -> int:
    return int(connection.execute(text("SELECT 1")).scalar_one())


@pytest.mark.postgres
def test_a_statement_on_a_dead_line_ends_and_the_next_one_has_another(
    database: Database, line: TcpProxy
) -> None:
    def dies(connection: Connection) -> int:
        _one(connection)
        line.kill_lines()
        return _one(connection)

    with pytest.raises(UnavailableError):
        database.read(dies)
    assert database.read(_one) == 1


@pytest.mark.postgres
def test_a_session_that_the_server_has_ended_unheard_is_waited_for_by_nobody(
    database: Database, line: TcpProxy, postgres_url: str
) -> None:
    others = Database(postgres_url)

    def dies(connection: Connection) -> int:
        session = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        line.kill_lines()
        # As `idle_in_transaction_session_timeout` does, and an operator.
        with others.engine.connect() as operator:
            operator.execute(text("SELECT pg_terminate_backend(:session)"), {"session": session})
        return _one(connection)

    with pytest.raises(UnavailableError):
        database.read(dies)
    assert database.read(_one) == 1
    others.close()


@pytest.mark.postgres
def test_behind_a_pooler_that_has_numbers_of_its_own_nothing_is_said_of_a_session_that_is_not_found(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(postgres_url)
    options = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database}
    unknown = (1 << 30) + 7
    assert silent_lines._session(unknown, (), options) is silent_lines._Session.IDLE
    renumbered = silent_lines._STATE.replace("SELECT pg_backend_pid()", "SELECT pg_backend_pid() + 1")
    monkeypatch.setattr(silent_lines, "_STATE", renumbered)
    assert silent_lines._session(unknown, (), options) is silent_lines._Session.BUSY


@pytest.mark.postgres
def test_a_line_that_died_in_the_pool_is_another_one_when_it_is_needed(
    database: Database, line: TcpProxy
) -> None:
    assert database.read(_one) == 1
    line.kill_lines()
    assert database.read(_one) == 1


@pytest.mark.postgres
def test_a_statement_ends_where_the_server_cannot_be_reached_at_all(
    database: Database, line: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silent_lines, "ASK_SECONDS", 2.0)

    def dies(connection: Connection) -> int:
        line.black_hole()
        return _one(connection)

    with pytest.raises(UnavailableError):
        database.read(dies)
    line.forward()
    assert database.read(_one) == 1


@pytest.mark.postgres
def test_a_long_statement_is_left_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    found, ask = list[silent_lines._Session](), silent_lines._session

    def asks(*arguments: Any) -> silent_lines._Session:
        found.append(ask(*arguments))
        return found[-1]

    monkeypatch.setattr(silent_lines, "_session", asks)
    with database.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(7)"))

        def wait_for_the_lock(connection: Connection) -> int:
            connection.execute(text("SELECT pg_advisory_lock(7)"))
            return _one(connection)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(database.read, wait_for_the_lock)
            wait_until(lambda: found.count(silent_lines._Session.BUSY) >= 2, "the server was asked twice")
            assert not waiting.done()
            other.execute(text("SELECT pg_advisory_unlock(7)"))
            assert waiting.result(30) == 1
