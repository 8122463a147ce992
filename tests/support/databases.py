"""Databases that have the present tables already: copies of one that was migrated once in this process."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from tests.support import postgres


def _migrated(url: str) -> None:
    database = Database(url)
    try:
        migrate(database)
    finally:
        database.close()


@functools.cache
def _sqlite_template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        _migrated(f"sqlite:///{path}")
        # The last connection has taken its log into the file and removed it.
        return path.read_bytes()


def sqlite_file(path: Path) -> Path:
    """A new database without any row in this place, unless there is one already."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(_sqlite_template())
    return path


_templates = contextlib.ExitStack()


@functools.cache
def _postgres_template() -> str:
    name, url = _templates.enter_context(postgres.named_database())
    _migrated(url)
    return name


@contextlib.contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a new database without any row, dropped in the end."""
    with postgres.fresh_database(template=_postgres_template()) as url:
        yield url


def close() -> None:
    """At the end of the tests: the templates go."""
    _postgres_template.cache_clear()
    _templates.close()
    postgres.close()
