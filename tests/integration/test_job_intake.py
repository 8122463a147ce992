"""Tasks of a job as both databases take them apart, count them, page through them, and drop them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from nodepool.domain.errors import StateConflictError
from nodepool.domain.tasks.arrays import ArrayInputs, expand, item_line
from nodepool.domain.tasks.run_inputs import RunInputs, arguments_from_json, mapping_from_json
from nodepool.domain.tasks.states import JobKind, TaskState
from nodepool.stores.sql import held_back_results, job_intake, jobs as job_store, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import task_labels, tasks
from tests.support.money import PRICE, add_payer

ODD = ["", "ü\n\"quoted\" 'text' \\ {index}", "0"]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def _put(database: Database, count: int) -> None:
    owner = database.write(add_payer)
    job = {"id": "j", "owner_id": owner, "kind": JobKind.ARRAY, "count": count, "digest": "", "holder": "h"}
    row: dict[str, Any] = {
        "owner_id": owner, "state": TaskState.QUEUED, "cpu_score": 0, "memory_gb": 0, "gpu_score": 0,
        "gpu_memory_gb": 0, "gpu_name": "", "region": "any", "tier": "high", "image": "image",
        "network": False, "max_minutes": 10, "price_per_minute": PRICE, "package_sha256": "0" * 64,
        "package_bytes": 1, "labels": '{"exp":"1"}', "holds_when_placed": True, "created_at": 1.0,
        "updated_at": 1.0, "hinted_at": 1.0, "queued_at": 1.0,
    }  # fmt: skip
    items = "".join(item_line(index, [ODD[index % 3]]) for index in range(count)).encode()
    database.write(lambda c: job_intake.begin(c, job, 1.0))
    for piece in expand(items, ArrayInputs.of(("a",), RunInputs(("{a}",), {"I": "{index}"}))):
        database.write(lambda c: job_intake.put_in(c, "j", "h", row, piece, 2.0))  # noqa: B023


def test_what_each_task_is_given_arrives_as_it_was(database: Database) -> None:
    _put(database, 450)
    for index in (0, 1, 2, 449):
        row = database.read(lambda c: task_store.find(c, f"j.{index}"))  # noqa: B023
        assert arguments_from_json(row.arguments) == (ODD[index % 3],)
        assert mapping_from_json(row.environment) == {"I": str(index)}
        assert (row.job_id, row.job_index, row.holds_when_placed) == ("j", index, True)
    assert len(database.read(lambda c: c.execute(select(task_labels)).all())) == 450
    assert database.read(lambda c: job_store.counts(c, ["j"])) == {"j": {"QUEUED": 450}}
    page = database.read(lambda c: job_store.waiting_page(c, "j", 199, 3))
    assert [it.id for it in page] == ["j.200", "j.201", "j.202"]
    (why,) = database.read(lambda c: job_store.reasons(c, "j", [TaskState.QUEUED], 5))
    assert (why.tasks, why.first_index) == (450, 0)


def _change(database: Database, index: int, **values: Any) -> None:
    change = update(tasks).where(tasks.c.id == f"j.{index}").values(**values)
    database.write(lambda c: c.execute(change))


def test_both_databases_count_tasks_as_their_owner_sees_them(database: Database) -> None:
    _put(database, 6)
    said = {"reason": "stopped by its owner", "reason_code": "stopped", "state": TaskState.STOPPED}
    _change(database, 0, state=TaskState.FAILED, held_back_until=9.0, reason="it failed", exit_code=3)
    _change(database, 1, state=TaskState.SUCCEEDED, held_back_until=9.0)
    _change(database, 2, state=TaskState.SUCCEEDED)
    _change(database, 3, **said, stopped_by_operator=True)
    _change(database, 4, **said)
    _change(database, 5, state=TaskState.RUNNING)
    assert database.read(lambda c: job_store.counts(c, ["j", "other"])) == {
        "j": {"RUNNING": 3, "SUCCEEDED": 1, "STOPPED": 2}
    }
    told = database.read(lambda c: job_store.reasons(c, "j", [TaskState.FAILED, TaskState.STOPPED], 5))
    assert {(it.code, it.words, it.tasks, it.first_index) for it in told} == {
        ("stopped", "stopped by its owner", 1, 4),
        ("stopped_by_operator", "stopped by the pool's operator", 1, 3),
    }
    page = database.read(
        lambda c: job_store.tasks_page(c, "j", 9, after=-1, states=[TaskState.FAILED, TaskState.RUNNING])
    )
    assert [it.job_index for it in page] == [0, 1, 5]
    assert database.read(lambda c: job_store.exit_codes_of_failed(c, "j")) == []
    _change(database, 5, state=TaskState.SUCCEEDED)
    assert database.read(lambda c: job_store.is_unfinished(c, "j"))
    assert sorted(database.read(lambda c: held_back_results.ids_of_job(c, "j", 9))) == ["j.0", "j.1"]
    database.write(lambda c: held_back_results.give(c, ["j.0", "j.1"], 3.0))
    assert not database.read(lambda c: job_store.is_unfinished(c, "j"))
    assert database.read(lambda c: job_store.counts(c, ["j"])) == {
        "j": {"FAILED": 1, "SUCCEEDED": 3, "STOPPED": 2}
    }


def test_who_lost_the_job_puts_nothing_in_and_what_is_dropped_is_gone(database: Database) -> None:
    _put(database, 300)
    assert database.write(lambda c: job_intake.take_over(c, "j", "other", 90.0, before=60.0))
    with pytest.raises(StateConflictError):
        database.write(lambda c: job_intake.accept(c, "j", "h", 91.0))
    while database.write(lambda c: job_intake.drop_some(c, "j", "other", 200, 92.0)):
        pass
    assert database.read(lambda c: job_intake.find_any(c, "j")) is None
    assert database.read(lambda c: job_store.counts(c, ["j"])) == {}
