"""Fresh databases on the PostgreSQL server of HIVEMIND_TEST_POSTGRES_URL."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy.engine import URL, make_url

from tests.support.environment import not_here

VARIABLE = "HIVEMIND_TEST_POSTGRES_URL"


def server_url() -> URL:
    """The server's own database; skips or fails the test where there is no server."""
    url = os.environ.get(VARIABLE)
    if not url:
        not_here(f"no PostgreSQL: {VARIABLE} is not set")
    return make_url(url)


@contextlib.contextmanager
def fresh_database(template: str = "template1") -> Iterator[str]:
    """The URL of a copy of an empty database, dropped in the end with whoever is still connected."""
    with named_database(template) as (_, url):
        yield url


@contextlib.contextmanager
def named_database(template: str = "template1") -> Iterator[tuple[str, str]]:
    """(name, URL) of the same."""
    name = f"hivemind_{secrets.token_hex(6)}"
    _administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield name, server_url().set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(statement: str) -> None:
    with _administrator(server_url()).connect() as connection:
        connection.exec_driver_sql(statement)


@functools.cache
def _administrator(server: URL) -> sqlalchemy.Engine:
    """One connection for all databases of this process."""
    return sqlalchemy.create_engine(
        server, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=-1, pool_pre_ping=True
    )


def close() -> None:
    """At the end of the tests."""
    if url := os.environ.get(VARIABLE):
        _administrator(make_url(url)).dispose()
