"""Brings a database to the present shape, or back to that of an earlier version.

Alembic takes longer to load than everything else that a process needs from SQL, and nearly every start finds
the shape that it expects: so that is looked at first, and Alembic is loaded where something is to be done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from nodepool.domain.errors import StateConflictError
from nodepool.stores.sql.database import Database

SCRIPTS = Path(__file__).parent / "migrations"
# What the version before this one has. Further back would take money, trust or credentials away.
OLDEST_REVISION = "0008"
# Two gateways that start at once must not migrate at once.
_LOCK_ID = 7_246_911
_INSTEAD = "restore a backup that was made with that version instead (docs/upgrade.md)"


class NewerDatabaseError(StateConflictError):
    """The database was made by a newer version of the pool."""


def known_revisions() -> list[str]:
    """The ids of all migrations, the oldest first: the numbers that files' names begin with."""
    return sorted(path.name[1:5] for path in (SCRIPTS / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py"))


def newest_revision() -> str:
    return known_revisions()[-1]


def revision_of(database: Database) -> str:
    """The last migration that the database has had; empty where it has no tables of ours."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return ""
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return str(found[0]) if len(found) == 1 else ""


def migrate(database: Database) -> None:
    """Run every migration that has not run yet. Safe to call from several processes at once.

    Raises NewerDatabaseError where the database has had one that this version does not know.
    """
    found = revision_of(database)
    if found != newest_revision():
        check_known(found)
        with _alembic(database) as config:
            from alembic import command  # noqa: PLC0415 - see above

            command.upgrade(config, "head")


def check_known(revision: str) -> None:
    """Raises NewerDatabaseError."""
    if revision and revision not in known_revisions():
        raise NewerDatabaseError(
            f"the database is of a newer version of the pool (its revision is {revision}, and this version "
            f"knows up to {newest_revision()}): start that version, or with it run "
            f"`hivemind admin db downgrade {newest_revision()}` first"
        )


def downgrade(database: Database, revision: str) -> list[str]:
    """Back to an earlier revision; those that were taken back, the newest first. All or nothing.

    Raises StateConflictError in words where that cannot be, and what is to be done instead.
    """
    found = revision_of(database)
    check_known(found)
    _check_way_back(found, revision)
    if found == revision:
        return []
    with _alembic(database) as config:
        from alembic import command  # noqa: PLC0415 - see above

        steps = [step.revision for step in _steps_back(config, found, revision)]
        command.downgrade(config, revision)
    return steps


def _check_way_back(found: str, revision: str) -> None:
    known = known_revisions()
    if not found:
        raise StateConflictError("there is nothing to take back: the database has no tables of a pool")
    if revision not in known:
        raise StateConflictError(
            f"there is no revision {revision!r}; this version knows {known[0]} to {known[-1]}"
        )
    if revision > found:
        raise StateConflictError(
            f"the database is at {found}, before {revision}: a gateway of this version brings it forward"
        )
    if revision < min(OLDEST_REVISION, found):
        raise StateConflictError(
            f"a downgrade to {revision} is refused, since it would delete what the pool must remember; "
            f"{OLDEST_REVISION} is the furthest: {_INSTEAD}"
        )


def _steps_back(config: Any, found: str, revision: str) -> list[Any]:
    """Raises StateConflictError where one of them has a reason, in the data, not to be taken back.

    A migration says so with a function refuses_downgrade(connection) that answers the reason, or nothing.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    steps = list(ScriptDirectory.from_config(config).iterate_revisions(found, revision))
    for step in steps:
        asked = getattr(step.module, "refuses_downgrade", None)
        reason = asked(config.attributes["connection"]) if asked is not None else ""
        if reason:
            raise StateConflictError(f"the downgrade of {step.revision} is refused: {reason}; {_INSTEAD}")
    return steps


@contextmanager
def _alembic(database: Database) -> Iterator[Any]:
    """Alembic's configuration, on one transaction that nobody else migrates in."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with database.engine.connect() as connection:
        _begin(database, connection)
        config.attributes["connection"] = connection
        try:
            yield config
        except BaseException:
            if database.is_sqlite:
                connection.exec_driver_sql("ROLLBACK")
            raise
        if database.is_sqlite:
            connection.exec_driver_sql("COMMIT")
        else:
            connection.commit()


def _begin(database: Database, connection: Connection) -> None:
    if database.is_sqlite:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK_ID})
