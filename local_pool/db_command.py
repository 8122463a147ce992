"""`hivemind admin db`: which shape the pool's database has, and the way back to an earlier one.

On the pool's own host, against the database itself. The way forward is the gateway's, when it starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from local_pool.in_use import check_unused
from local_pool.pool_place import PoolPlace, check_there, data_dir_option, find_place
from nodepool.domain.errors import NodePoolError
from nodepool.stores.sql.database import Database, translated_errors
from nodepool.stores.sql.migrate import downgrade as take_back, migrate, newest_revision, revision_of


@click.group()
def db() -> None:
    """The pool's database: which version it is of, and back to an earlier one."""


@db.command()
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def current(data_dir: Path | None, *, as_json: bool) -> None:
    """Tell the revision of the database, and the newest that this version knows."""
    with _opened(find_place(data_dir)) as database:
        found, newest = revision_of(database), newest_revision()
    if as_json:
        click.echo(json.dumps({"revision": found, "newest": newest, "current": found == newest}))
    else:
        click.echo(f"the database is at {found or 'no revision'}; this version knows up to {newest}")


@db.command()
@data_dir_option
def upgrade(data_dir: Path | None) -> None:
    """Bring the database to this version, as a gateway does when it starts."""
    with _opened(find_place(data_dir)) as database:
        migrate(database)
        click.echo(f"the database is at {revision_of(database)}")


@db.command()
@click.argument("revision")
@data_dir_option
def downgrade(revision: str, data_dir: Path | None) -> None:
    """Take the database back to REVISION, for an earlier version of the pool. The pool must be stopped.

    All or nothing. What an earlier version cannot have is refused, with the reason: restore a backup then.
    """
    place = find_place(data_dir)
    check_there(place)
    with check_unused(place), _opened(place) as database:
        taken = take_back(database, revision)
    if taken:
        click.echo(f"the database is at {revision}; taken back: {', '.join(taken)}")
        click.echo("start the earlier version now: this one would bring the database forward again")
    else:
        click.echo(f"the database is at {revision} already; nothing was changed")


@contextmanager
def _opened(place: PoolPlace) -> Iterator[Database]:
    check_there(place)
    database = Database(place.database_url)
    try:
        with translated_errors():
            yield database
    except NodePoolError as error:
        raise click.ClickException(str(error)) from error
    finally:
        database.close()
