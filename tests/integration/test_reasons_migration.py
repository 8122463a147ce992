"""A pool that begins to keep reasons by code: what tasks and attempts said before stays, and is read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import select, text

from nodepool.domain.tasks.reasons import no_node, stored, told
from nodepool.stores.sql import migrate, placements
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import attempts, tasks
from tests.support.family import open_family
from tests.support.migrations import alembic_to
from tests.support.money import add_held_task

SAID = {
    "waits": "no node of the pool can ever run this: looked at 1 nodes: 1 busy: memory",
    "runs": "",
}
NOWHERE = no_node(0, {}, hopeless=False)


@pytest.fixture
def old(database_url: str) -> Iterator[Database]:
    """A database of the version before, with a task that waits, and one on a node after a lost attempt."""
    database = Database(database_url)
    migrate.migrate(database)
    family = open_family(database)
    for task_id in SAID:
        database.write(lambda c, task_id=task_id: add_held_task(c, family.user_id, task_id, created_at=1.0))
    family.running("runs", 0)
    alembic_to(database, command.downgrade, "0007")
    with database.engine.begin() as connection, pytest.raises(Exception, match="reason_code"):
        connection.execute(text("SELECT reason_code FROM tasks"))
    with database.engine.begin() as connection:
        for task_id, words in SAID.items():
            values = {"words": words, "id": task_id}
            connection.execute(text("UPDATE tasks SET reason = :words WHERE id = :id"), values)
        connection.execute(text("UPDATE attempts SET reason = 'no room'"))
    yield database
    database.close()


def test_old_rows_keep_their_words_and_new_ones_get_codes(old: Database) -> None:
    migrate.migrate(old)
    columns = (tasks.c.id, tasks.c.reason, tasks.c.reason_code, tasks.c.reason_parameters)
    rows = old.read(lambda c: c.execute(select(*columns)).all())
    assert {row.id: row.reason for row in rows} == SAID
    for row in rows:
        assert stored(row.reason_code, row.reason_parameters, row.reason) == told(SAID[row.id])
    assert old.read(lambda c: c.execute(select(attempts.c.reason, attempts.c.reason_code)).one()) == (
        "no room", "",
    )  # fmt: skip
    # The same words are news where their code is not known.
    same_words = stored("no_node_ever", '{"looked_at": 1, "failed": [["busy", "memory_mb", 1]]}', "")
    assert str(same_words) == SAID["waits"]
    assert old.write(lambda c: placements.set_reason(c, ["waits"], same_words, 2.0)) == ["waits"]
    assert old.write(lambda c: placements.set_reason(c, ["waits"], NOWHERE, 2.0)) == ["waits"]
    assert old.write(lambda c: placements.set_reason(c, ["waits"], NOWHERE, 3.0)) == []
    waits = old.read(lambda c: c.execute(select(*columns).where(tasks.c.id == "waits")).one())
    assert stored(waits.reason_code, waits.reason_parameters, waits.reason) == NOWHERE
    assert waits.reason == str(NOWHERE)


def test_the_version_before_goes_on_writing_words_alone(old: Database) -> None:
    """Its statements name no code: the columns have defaults."""
    migrate.migrate(old)
    with old.engine.begin() as connection:
        connection.execute(text("UPDATE tasks SET reason = 'by the old one' WHERE id = 'waits'"))
    row = old.read(lambda c: c.execute(select(tasks).where(tasks.c.id == "waits")).one())
    assert stored(row.reason_code, row.reason_parameters, row.reason) == told("by the old one")
