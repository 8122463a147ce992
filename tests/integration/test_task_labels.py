"""Tasks are found by their labels and names, by an index, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Select, select, text
from sqlalchemy.dialects import postgresql, sqlite

from nodepool.domain.errors import AlreadyExistsError
from nodepool.domain.tasks.run_inputs import mapping_to_json
from nodepool.stores.sql import removal, task_labels as label_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import task_labels, tasks
from tests.support.stores import add_task, add_user, migrated


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as made:
        yield made


def _add(database: Database, owner_id: int, task_id: str, **labels: str) -> None:
    row = {"id": task_id, "owner_id": owner_id, "created_at": 1.0, "labels": mapping_to_json(labels)}

    def write(connection: Connection) -> None:
        add_task(
            connection, owner_id, task_id=task_id, labels=row["labels"], state="SUCCEEDED", finished_at=2.0
        )
        label_store.add(connection, [row])

    database.write(write)


def _page(owner_id: int, wanted: dict[str, str]) -> Select[Any]:
    """As a list would ask for it: newest first, from a place on, with more of the task."""
    found = label_store.labelled(owner_id, wanted).subquery()
    query = select(tasks.c.id, tasks.c.state).join(found, found.c.task_id == tasks.c.id)
    query = query.where(found.c.created_at < 5.0)
    return query.order_by(found.c.created_at.desc(), found.c.task_id.desc()).limit(50)


def _found(database: Database, owner_id: int, **wanted: str) -> list[str]:
    return database.read(lambda c: list(c.execute(_page(owner_id, wanted)).scalars()))


def test_a_task_is_found_by_all_of_its_labels_and_by_its_owner_alone(database: Database) -> None:
    ann, bob = (database.write(lambda c, name=name: add_user(c, name)) for name in ("ann", "bob"))
    _add(database, ann, "t1", sweep="a", stage="1")
    _add(database, ann, "t2", sweep="a", stage="2")
    _add(database, bob, "t3", sweep="a", stage="1")
    assert _found(database, ann, sweep="a") == ["t2", "t1"]
    assert _found(database, ann, sweep="a", stage="2") == ["t2"]
    assert _found(database, bob, sweep="b") == []


def test_its_labels_go_with_it(database: Database) -> None:
    ann = database.write(add_user)
    _add(database, ann, "t1", sweep="a")
    database.write(
        lambda c: c.execute(tasks.update().values(files_removed_at=3.0, storage_due=False, log_bytes=0))
    )
    assert database.write(lambda c: removal.remove_rows(c, ["t1"], 4.0)) == 1
    assert database.read(lambda c: c.execute(select(task_labels)).all()) == []


def test_no_value_is_in_what_is_logged_of_a_failed_statement(database: Database) -> None:
    ann = database.write(add_user)

    def add(connection: Connection) -> None:
        add_task(connection, ann, "t1", environment='{"PASSWORD":"hunter2"}')

    database.write(add)
    with pytest.raises(AlreadyExistsError) as failed:
        database.write(add)
    assert "environment" in str(failed.value.__cause__)
    assert "hunter2" not in str(failed.value.__cause__)


def test_a_page_of_a_label_is_read_from_the_index(database: Database) -> None:
    named = select(tasks.c.id).where(tasks.c.owner_id == 1, tasks.c.name == "n", tasks.c.name != "")
    named = named.order_by(tasks.c.created_at.desc()).limit(50)
    for wanted, index in (
        (_page(1, {"k": "v", "l": "w"}), "ix_task_labels_found"),
        (named, "ix_tasks_owner_name"),
    ):
        plan = _plan(database, wanted)
        assert index in plan, plan
        assert "SORT" not in plan.upper().replace("INCREMENTAL SORT", "SORT"), plan
        assert "TEMP B-TREE" not in plan, plan


def _plan(database: Database, query: Select[Any]) -> str:
    is_sqlite = database.engine.dialect.name == "sqlite"
    dialect = sqlite.dialect() if is_sqlite else postgresql.dialect()  # type: ignore[no-untyped-call]
    words = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    with database.engine.connect() as connection:
        if not is_sqlite:
            # Of an empty table every plan is cheap.
            connection.execute(text("SET enable_seqscan = off"))
            connection.execute(text("SET enable_bitmapscan = off"))
        explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
        rows = connection.execute(text(f"{explain}{words}")).all()
    return "\n".join(str(row[-1]) for row in rows)
