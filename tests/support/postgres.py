"""Fresh databases on the PostgreSQL server of HIVEMIND_TEST_POSTGRES_URL."""

from __future__ import annotations

import contextlib
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
    server = server_url()
    name = f"hivemind_{secrets.token_hex(6)}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        try:
            yield name, server.set(database=name).render_as_string(hide_password=False)
        finally:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    finally:
        engine.dispose()
