"""A pool that begins to remove what is old: holds stay without their tasks, and until then a way back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import delete, event, select, text, update

from nodepool.domain.errors import StateConflictError
from nodepool.stores.sql import migrate, removal
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import attempts, holds, nodes, tasks
from tests.support.family import Family, open_family
from tests.support.migrations import alembic_to
from tests.support.money import add_held_task

_BEFORE = "0009"


@pytest.fixture
def old(database_url: str) -> Iterator[Family]:
    """A database of the version before, with a task that has ended on a node and one that waits."""
    database = Database(database_url)
    migrate.migrate(database)
    family = open_family(database)
    for task_id in ("ran", "waits"):
        database.write(lambda c, task_id=task_id: add_held_task(c, family.user_id, task_id, created_at=1.0))
    family.running("ran", 0)
    family.end("ran", 0, "d" * 64)
    alembic_to(database, command.downgrade, _BEFORE)
    with database.engine.begin() as connection, pytest.raises(Exception, match="files_removed_at"):
        connection.execute(text("SELECT files_removed_at FROM tasks"))
    yield family
    database.close()


def test_what_was_there_is_kept_and_can_go_from_then_on(old: Family) -> None:
    database = old.database
    migrate.migrate(database)
    assert ledger_store.verify_database(database).problems == []
    assert database.read(lambda c: c.execute(select(nodes.c.seen_at).distinct()).scalars().all()) == [0.0]
    before = database.read(lambda c: c.execute(select(holds).order_by(holds.c.task_id)).all())
    assert [(it.task_id, it.state) for it in before] == [("ran", "posted"), ("waits", "held")]

    due = database.read(lambda c: removal.with_files(c, 1e9, 10))
    assert [it.task_id for it in due] == ["ran"]
    assert database.write(lambda c: removal.remove_files(c, {"ran": 0, "waits": 0}, 500.0)) == ["ran"]
    ended = update(tasks).where(tasks.c.id == "ran").values(storage_due=False)
    database.write(lambda c: c.execute(ended))
    assert database.read(lambda c: removal.removable(c, before=1e9, deleted_before=0, limit=10)) == ["ran"]
    assert database.write(lambda c: removal.remove_rows(c, ["ran", "waits"], 600.0)) == 1
    assert database.read(lambda c: c.execute(select(tasks.c.id)).scalars().all()) == ["waits"]
    assert database.read(lambda c: c.execute(select(attempts.c.id)).all()) == []
    assert ledger_store.verify_database(database).problems == []
    with pytest.raises(StateConflictError, match="1 tasks were removed since"):
        migrate.downgrade(database, _BEFORE)

    # What somebody else takes away is found.
    database.write(lambda c: c.execute(delete(tasks).where(tasks.c.id == "waits")))
    assert any("waits has no task" in it for it in ledger_store.verify_database(database).problems)


def test_the_way_back_is_open_until_the_first_task_is_removed(old: Family) -> None:
    database = old.database
    migrate.migrate(database)
    database.write(lambda c: removal.remove_files(c, {"ran": 0}, 500.0))
    alembic_to(database, command.downgrade, _BEFORE)
    with database.engine.begin() as connection:
        rows = connection.execute(text("SELECT id, result_attempt FROM tasks ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [("ran", ""), ("waits", "")]
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            connection.execute(text("DELETE FROM tasks WHERE id = 'waits'"))
    migrate.migrate(database)
    assert ledger_store.verify_database(database).problems == []


def test_what_is_due_is_found_by_its_index_however_many_tasks_have_ended(old: Family) -> None:
    """None of the questions that are asked again and again reads all tasks."""
    database = old.database
    migrate.migrate(database)
    asked: list[tuple[str, object]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _listen(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    database.read(lambda c: removal.with_files(c, 1.0, 10))
    database.read(lambda c: removal.with_logs(c, 1.0, 10))
    database.read(lambda c: removal.removable(c, before=1.0, deleted_before=1.0, limit=10))
    event.remove(database.engine, "before_cursor_execute", _listen)
    wanted = ["ix_tasks_with_files", "ix_tasks_kept_log", "ix_tasks_deleted", "ix_tasks_without_files"]
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET enable_seqscan = off")
        for (statement, parameters), index in zip(asked, wanted, strict=True):
            plan = str(connection.exec_driver_sql(explain + statement, parameters).all())
            assert index in plan, plan
