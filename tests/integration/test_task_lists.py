"""Pages of tasks on SQLite and PostgreSQL: what is in them, in which order, and by which index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from alembic import command
from sqlalchemy import event, insert, text

from nodepool.domain.tasks.run_inputs import mapping_to_json
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.stores.sql import jobs as job_store, migrate, task_labels as label_store, task_lists
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.tables import jobs
from tests.support.migrations import alembic_to
from tests.support.stores import add_node, add_task, add_user, migrated

_BEFORE = "0022"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as made:
        yield made


@pytest.fixture
def ann(database: Database) -> int:
    return database.write(lambda c: add_user(c, "ann"))


@pytest.fixture
def bob(database: Database) -> int:
    return database.write(lambda c: add_user(c, "bob"))


def put(database: Database, owner_id: int, task_id: str, *, at: float = 1.0, **columns: Any) -> str:
    labels = columns.pop("labels", {})

    def work(connection: Connection) -> None:
        row = {"id": task_id, "owner_id": owner_id, "created_at": at, "labels": mapping_to_json(labels)}
        add_task(connection, task_id=task_id, **{**row, **columns, "id": task_id})
        label_store.add(connection, [row])

    database.write(work)
    return task_id


def put_job(database: Database, owner_id: int, job_id: str, *, accepted: bool = True) -> None:
    row = {
        "id": job_id, "owner_id": owner_id, "kind": "array", "count": 1, "digest": "", "created_at": 1.0,
        "accepted_at": 1.0 if accepted else None, "renewed_at": 1.0,
    }  # fmt: skip
    database.write(lambda c: c.execute(insert(jobs).values(row)))


def ids(database: Database, owner_id: int | None, size: int = 100, **asked: Any) -> list[str]:
    """All pages of that size, one after the other."""
    wanted, found, after = TaskFilter(**asked), [], None
    while True:
        page = database.read(
            lambda c: task_lists.page(c, wanted, size, owner_id=owner_id, after=after)  # noqa: B023
        )
        found += [row.id for row in page]
        if len(page) < size:
            return found
        after = page[-1].created_at, page[-1].id


def test_pages_have_each_task_once_newest_first_whatever_is_added(
    database: Database, ann: int, bob: int
) -> None:
    # Of one moment, as the tasks of an array are.
    mine = [put(database, ann, f"t{number}", at=float(number // 4)) for number in range(12)]
    put(database, bob, "of-bob", at=2.5)
    assert ids(database, ann) == sorted(mine, key=lambda each: (int(each[1:]) // 4, each), reverse=True)
    assert ids(database, ann, size=5) == ids(database, ann)
    first = database.read(lambda c: task_lists.page(c, TaskFilter(), 5, owner_id=ann, after=None))
    put(database, ann, "newer", at=9.0)
    put(database, ann, "t45", at=1.0)
    after = first[-1].created_at, first[-1].id
    rest = database.read(lambda c: task_lists.page(c, TaskFilter(), 100, owner_id=ann, after=after))
    assert {row.id for row in first} | {row.id for row in rest} == {*mine, "t45"}
    assert "newer" not in [row.id for row in rest]


def test_all_that_is_asked_for_holds(database: Database, ann: int, bob: int) -> None:
    database.write(lambda c: add_node(c, ann, "n1"))
    put(database, ann, "a", at=1.0, name="sweep", labels={"k": "v", "l": "w"}, state="RUNNING", node_id="n1")
    put(database, ann, "b", at=2.0, name="sweep", labels={"k": "v"}, state="FAILED")
    put(database, ann, "c", at=3.0, labels={"k": "other"}, state="RUNNING")
    put(database, bob, "d", at=4.0, name="sweep", labels={"k": "v"}, state="RUNNING", node_id="n1")
    running, failed = TaskState.RUNNING, TaskState.FAILED
    assert ids(database, ann, name="sweep") == ["b", "a"]
    assert ids(database, ann, name="sweep", states=(failed,)) == ["b"]
    assert ids(database, ann, labels={"k": "v"}) == ["b", "a"]
    assert ids(database, ann, labels={"k": "v", "l": "w"}) == ["a"]
    assert ids(database, ann, labels={"k": "v"}, states=(running,), name="sweep") == ["a"]
    assert ids(database, ann, states=(running, failed)) == ["c", "b", "a"]
    assert ids(database, ann, size=1, states=(running, failed)) == ["c", "b", "a"]
    assert ids(database, ann, node_id="n1") == ["a"]
    assert ids(database, ann, since=2.0, until=3.0) == ["b"]
    assert ids(database, ann, since=2.0, states=(running,)) == ["c"]
    # An operator's.
    assert ids(database, None) == ["d", "c", "b", "a"]
    assert ids(database, None, size=1, states=(running,)) == ["d", "c", "a"]
    assert ids(database, None, labels={"k": "v"}) == ["d", "b", "a"]


def test_a_node_is_asked_for_its_tasks_also_of_those_with_several_runs(database: Database, ann: int) -> None:
    for node in ("n1", "n2"):
        database.write(lambda c, node=node: add_node(c, ann, node))
    put(database, ann, "single", at=1.0, state="RUNNING", node_id="n1")
    put(database, ann, "several", at=2.0, state="RUNNING", node_id="n1", replicas=2)
    put(
        database, ann, "several~1", at=2.0, state="RUNNING", node_id="n1", kind="replica", parent_id="several"
    )
    put(database, ann, "elsewhere", at=3.0, state="RUNNING", node_id="n2")
    attempt = text(
        "INSERT INTO attempts (id, task_id, number, node_id, state, claim_cpu_score, claim_memory_mb, "
        "claim_gpu_score, claim_gpu_memory_gb, created_at) "
        "VALUES (:id, :task, 1, :node, 'running', 1, 1, 0, 0, 1)"
    )
    for task, node in (("single", "n1"), ("several~1", "n1"), ("elsewhere", "n2")):
        values = {"id": f"{task}:1", "task": task, "node": node}
        database.write(lambda c, values=values: c.execute(attempt, values))
    assert ids(database, None, node_id="n1") == ["several", "single"]
    assert ids(database, ann, node_id="n1") == ["several", "single"]


def test_what_is_not_there_for_its_owner_is_in_no_list(database: Database, ann: int) -> None:
    put(database, ann, "there")
    put(database, ann, "deleted", state="FAILED", deleted_at=5.0)
    put(database, ann, "there~1", kind="replica", parent_id="there")
    put(database, ann, "probe", kind="probe")
    put_job(database, ann, "half", accepted=False)
    put(database, ann, "half.0", job_id="half")
    for owner in (ann, None):
        assert ids(database, owner) == ["there"]
    assert database.read(lambda c: task_lists.beginning_with(c, ann, "", 10)) == ["there"]
    assert [
        it.id for it in database.read(lambda c: task_lists.own(c, ann, ["there", "deleted", "half.0"]))
    ] == ["there"]


def test_a_result_that_is_held_back_is_of_a_task_that_runs(database: Database, ann: int) -> None:
    put(database, ann, "checked", state="SUCCEEDED", finished_at=2.0, held_back_until=99.0)
    put(database, ann, "given", state="SUCCEEDED", finished_at=2.0)
    for owner in (ann, None):
        assert ids(database, owner, states=(TaskState.RUNNING,)) == ["checked"]
        assert ids(database, owner, states=(TaskState.SUCCEEDED,)) == ["given"]


def test_beginnings_of_ids_are_taken_by_the_letter(database: Database, ann: int, bob: int) -> None:
    for task_id in ("run_a", "run-a", "runXa", "RUN_a", "run_b", "run.a", "run"):
        put(database, ann, task_id)
    put(database, bob, "run_of_bob")
    put(database, ann, "run_job.0", job_id="run_job")
    put_job(database, ann, "run_job")
    put_job(database, ann, "run_half", accepted=False)

    def begin(prefix: str) -> set[str]:
        return set(database.read(lambda c: task_lists.beginning_with(c, ann, prefix, 10)))

    assert begin("run_") == {"run_a", "run_b"}
    assert begin("run") == {"run_a", "run-a", "runXa", "run_b", "run.a", "run"}
    assert begin("run%") == set()
    assert database.read(lambda c: job_store.beginning_with(c, ann, "run", 10)) == ["run_job"]
    assert database.read(lambda c: job_store.beginning_with(c, bob, "run", 10)) == []


WANTED: list[tuple[dict[str, Any], bool, str]] = [
    ({}, True, "ix_tasks_owner_created"),
    ({"states": (TaskState.FAILED,)}, True, "ix_tasks_owner_state"),
    ({"states": (TaskState.FAILED, TaskState.QUEUED)}, True, "ix_tasks_owner_state"),
    ({"states": (TaskState.RUNNING,)}, True, "ix_tasks_owner_held_back"),
    ({"name": "n"}, True, "ix_tasks_owner_name"),
    ({"node_id": "n"}, True, "ix_tasks_owner_node"),
    ({"labels": {"k": "v"}}, True, "ix_task_labels_found"),
    ({"since": 1.0, "until": 9.0}, True, "ix_tasks_owner_created"),
    ({}, False, "ix_tasks_state_created"),
    ({"states": (TaskState.FAILED,)}, False, "ix_tasks_state_created"),
]


@pytest.mark.parametrize("after", [None, (5.0, "t")])
def test_a_page_is_read_off_an_index_in_its_order(
    database: Database, ann: int, after: task_lists.Place | None
) -> None:
    for asked, of_owner, index in WANTED:
        wanted, owner_id = TaskFilter(**asked), ann if of_owner else None
        look = partial(task_lists.page, wanted=wanted, limit=50, owner_id=owner_id, after=after)
        plan = plan_of(database, look)
        assert index in plan, (asked, plan)
        # All of an index that has the few whose result is held back.
        few = plan.replace("SCAN tasks USING INDEX ix_tasks_held_back", "")
        assert "SCAN tasks" not in few, (asked, plan)
        if asked.get("states") in (None, (TaskState.FAILED,)) and of_owner:
            assert "Sort" not in plan.replace("Sort Key", ""), (asked, plan)
            assert "TEMP B-TREE" not in plan, (asked, plan)


def test_a_beginning_is_a_range_of_an_index(database: Database, ann: int, bob: int) -> None:
    for number in range(30):
        put(database, bob, f"task_{number}")
    plan = plan_of(database, lambda c: task_lists.beginning_with(c, ann, "task_2026", 10))
    assert "ix_tasks_owner_single" in plan
    assert "~>=~" in plan or "id>?" in plan, plan


def plan_of(database: Database, look: Any) -> str:
    """Of the first statement that it makes."""
    asked: list[tuple[str, Any]] = []

    def listen(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", listen)
    database.read(look)
    event.remove(database.engine, "before_cursor_execute", listen)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            # Of an empty table every plan is cheap, and so it is of one that is not looked at.
            connection.execute(text("ANALYZE tasks"))
            connection.execute(text("SET enable_seqscan = off"))
            connection.execute(text("SET enable_bitmapscan = off"))
        rows = connection.exec_driver_sql(explain + asked[0][0], asked[0][1]).all()
    return "\n".join(str(row[-1]) for row in rows)


def test_a_database_of_the_version_before_keeps_its_tasks_and_gets_the_indexes(database_url: str) -> None:
    with migrated(database_url) as database:
        ann = database.write(lambda c: add_user(c, "ann"))
        put(database, ann, "task_1", name="n")
        alembic_to(database, command.downgrade, _BEFORE)
        put(database, ann, "task_2", name="n", at=2.0)
        bob = database.write(lambda c: add_user(c, "bob"))
        for number in range(30):
            put(database, bob, f"of_bob_{number}")
        migrate.migrate(database)
        assert ids(database, ann, name="n") == ["task_2", "task_1"]
        plan = plan_of(database, lambda c: task_lists.beginning_with(c, ann, "task_", 10))
        assert "ix_tasks_owner_single" in plan
