"""A pool that goes over to random ids of attempts while runs are under way: they end and are paid as ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import select, text

from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import migrate, tasks as task_store, verification_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import nodes
from tests.support.family import Family, open_family
from tests.support.migrations import alembic_to
from tests.support.money import PRICE, add_held_task, check_sums
from tests.support.stores import add_node

COLUMNS = {"attempts": "idle", "nodes": "engine_shown", "node_records": "watched"}


@pytest.fixture
def old(empty_database_url: str) -> Iterator[Database]:
    """A database of the version before, in which `t:1` and a run of `r` are on nodes."""
    database = Database(empty_database_url)
    migrate.migrate(database)
    family = open_family(database)
    database.write(lambda c: add_held_task(c, family.user_id, "t", created_at=family.now))
    family.submit(2, "r")
    family.running("t", 0)
    family.running("r~1", 1)
    family.running("r~2", 2)
    alembic_to(database, command.downgrade, "0004")
    with database.engine.connect() as connection:
        for table, column in COLUMNS.items():
            with pytest.raises(Exception, match=column):
                connection.execute(text(f"SELECT {column} FROM {table}"))
            connection.rollback()
    yield database
    database.close()


def test_runs_under_way_keep_their_ids_and_are_paid(old: Database) -> None:
    migrate.migrate(old)
    family = open_family_again(old)
    assert old.read(lambda c: sorted(row.id for row in task_store.live_attempts(c))) == [
        "r~1:1",
        "r~2:1",
        "t:1",
    ]
    family.end("t", 0, outcome=Outcome.SUCCEEDED, after=30)
    family.end("r~1", 1, "same")
    family.end("r~2", 2, "same")
    assert (family.row("t").state, family.row("r").state, family.row("r").verification) == (
        "SUCCEEDED", "SUCCEEDED", "agreed",
    )  # fmt: skip
    assert family.earned()[:3] == [PRICE, PRICE, 2 * PRICE]
    old.read(check_sums)


def test_nodes_that_were_there_keep_their_standing_until_they_are_probed_and_new_ones_show_theirs(
    old: Database,
) -> None:
    migrate.migrate(old)
    family = open_family_again(old)
    assert not old.read(lambda c: verification_records.is_low(c, family.node(0)))
    old.write(lambda c: add_node(c, family.owners[0], "new", believed=False))
    assert old.read(lambda c: verification_records.is_low(c, "new"))
    # What it says again does not show it, and what was shown is not forgotten.
    old.write(lambda c: add_node(c, family.owners[0], "new", believed=False))
    old.write(lambda c: add_node(c, family.owners[0], family.node(0), believed=False))
    shown = old.read(lambda c: {row.id: row.engine_shown for row in c.execute(select(nodes))})
    assert (shown["new"], shown[family.node(0)]) == (False, True)


def open_family_again(database: Database) -> Family:
    """As open_family made it."""
    rows = database.read(lambda c: c.execute(select(nodes).order_by(nodes.c.id)).all())
    owners = [row.owner_id for row in rows]
    return Family(database, min(owners) - 1, owners, Settings.model_validate({"audit_share": 0.0}))
