"""What waits for other tasks, in SQL alone: it goes on or never runs, once, whoever looks and how often."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from nodepool.domain.tasks.dependencies import WHOLE_JOB, Need, Standing, Unit
from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql import dependencies, placements as placing, tasks as task_store
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.job_tables import dependencies as dependency_table
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import jobs, tasks
from nodepool.workflows import dependents
from nodepool.workflows.dependents import Settled, Settling
from tests.support.money import add_held_task, add_payer
from tests.support.stores import add_task

_OPEN = Standing(has_ended=False)


class Waiting:
    """Tasks of one user, and what waits for what."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.user_id = database.write(add_payer)
        self.by = Settling(database, lambda: 3.0, 1 << 20)

    def task(self, task_id: str, *needed: Unit, on_any_end: bool = False, **columns: Any) -> Unit:
        values = {"holds_when_placed": True, **columns}
        if needed:
            values |= {"state": TaskState.WAITING}

        def work(connection: Connection) -> None:
            add_task(connection, self.user_id, task_id, **values)
            if needed:
                needs = [Need(unit, on_any_end, _OPEN) for unit in needed]
                dependencies.add(connection, Unit(task_id), needs)

        self.database.write(work)
        return Unit(task_id)

    def job(self, job_id: str, count: int, *needed: Unit) -> Unit:
        row = {"id": job_id, "owner_id": self.user_id, "kind": "array", "count": count, "digest": ""}
        times = {"created_at": 1.0, "accepted_at": 1.0, "renewed_at": 1.0}
        self.database.write(lambda c: c.execute(insert(jobs).values(**row, **times)))
        state = TaskState.WAITING if needed else TaskState.QUEUED
        for index in range(count):
            self.task(f"{job_id}.{index}", job_id=job_id, job_index=index, state=state)
        unit = Unit(job_id, WHOLE_JOB)
        if needed:
            needs = [Need(one, False, _OPEN) for one in needed]
            self.database.write(lambda c: dependencies.add(c, unit, needs))
        return unit

    def end(
        self, task_id: str, state: TaskState = TaskState.SUCCEEDED, *, held_back_until: float = 0
    ) -> None:
        ended = update(tasks).where(tasks.c.id == task_id)
        values = {"state": state, "finished_at": 2.0, "held_back_until": held_back_until}
        self.database.write(lambda c: c.execute(ended.values(values)))

    def look(self) -> Settled:
        """As the sweep does."""
        units = self.database.read(lambda c: dependencies.page(c, None, 100))
        return dependents.settle(self.by, units)

    def states(self) -> dict[str, str]:
        rows = self.database.read(lambda c: c.execute(select(tasks.c.id, tasks.c.state)).all())
        return {row.id: row.state for row in rows}

    def reason(self, task_id: str) -> str:
        return self.database.read(lambda c: task_store.find(c, task_id)).reason

    def left(self) -> int:
        return len(self.database.read(lambda c: c.execute(select(dependency_table)).all()))


@pytest.fixture
def waiting(database_url: str) -> Iterator[Waiting]:
    database = Database(database_url)
    yield Waiting(database)
    database.close()


def test_what_waits_is_in_no_line_and_goes_on_when_all_have_succeeded(waiting: Waiting) -> None:
    first, second = waiting.task("first"), waiting.task("second")
    waiting.task("last", first, second)
    waiting.end("first")
    assert waiting.look() == Settled()
    assert waiting.database.read(lambda c: placing.waiting(c, ["last"])) == []
    assert [it.id for it in waiting.database.read(lambda c: task_store.queued(c, 10))] == ["second"]
    waiting.end("second")
    assert [hint.id for hint in waiting.look().released] == ["last"]
    assert (waiting.states()["last"], waiting.left()) == ("QUEUED", 0)
    assert [it.id for it in waiting.database.read(lambda c: placing.waiting(c, ["last"]))] == ["last"]
    assert waiting.look() == Settled()


def test_a_failure_stops_all_that_comes_after_it_and_nothing_else(waiting: Waiting) -> None:
    first = waiting.task("first")
    second = waiting.task("second", first)
    waiting.task("third", second)
    waiting.task("cleanup", second, on_any_end=True)
    array = waiting.job("array", 3, second)
    waiting.task("end", array)
    waiting.end("first", TaskState.FAILED)
    settled = dependents.after_task(waiting.by, "first")
    assert [hint.id for hint in settled.released] == ["cleanup"]
    expected = dict.fromkeys(("second", "third", "array.0", "array.1", "array.2", "end"), "STOPPED")
    assert waiting.states() == {**expected, "first": "FAILED", "cleanup": "QUEUED"}
    assert waiting.reason("second") == "stopped before it ran: it comes after task first, which has failed"
    assert waiting.reason("array.1").endswith("it comes after task second, which was stopped")
    assert waiting.reason("end").endswith("it comes after job array, which was stopped")
    assert waiting.left() == 0


def test_a_job_is_waited_for_until_its_last_task_and_in_vain_after_its_first_failure(
    waiting: Waiting,
) -> None:
    array, other = waiting.job("array", 2), waiting.job("other", 2)
    waiting.task("after", array)
    waiting.task("never", other)
    waiting.task("anyhow", other, on_any_end=True)
    waiting.end("array.1")
    waiting.end("other.0", TaskState.FAILED)
    assert dependents.after_task(waiting.by, "array.1") == Settled()
    assert dependents.after_task(waiting.by, "other.0").stopped == ["never"]
    waiting.end("array.0", TaskState.SUCCEEDED)
    waiting.end("other.1", TaskState.SUCCEEDED)
    assert [hint.id for hint in waiting.look().released] == ["after", "anyhow"] or waiting.left() == 0
    assert (waiting.states()["after"], waiting.states()["anyhow"]) == ("QUEUED", "QUEUED")


def test_a_result_that_is_held_back_counts_when_it_is_given(waiting: Waiting) -> None:
    single, array = waiting.task("single"), waiting.job("array", 2)
    waiting.task("after", single, array)
    waiting.end("single", held_back_until=9.0)
    waiting.end("array.0", held_back_until=9.0)
    waiting.end("array.1")
    assert waiting.look() == Settled()
    waiting.end("single")
    assert waiting.look() == Settled()
    waiting.end("array.0")
    assert [hint.id for hint in waiting.look().released] == ["after"]


def test_what_is_not_there_any_more_is_no_success(waiting: Waiting) -> None:
    waiting.task("never", Unit("gone"))
    waiting.task("anyhow", Unit("gone.too", WHOLE_JOB), on_any_end=True)
    settled = waiting.look()
    assert (settled.stopped, [hint.id for hint in settled.released]) == (["never"], ["anyhow"])
    assert waiting.reason("never").endswith("it comes after task gone, which is not there any more")


def test_a_large_job_goes_on_in_short_transactions_and_a_break_in_them_is_gone_on_with(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependents, "_AT_ONCE", 2)
    monkeypatch.setattr(dependents, "_PIECES", 2)
    waiting.job("array", 7, waiting.task("first"))
    waiting.end("first")
    # One hint for each piece: a dispatcher that hears of one of a job's tasks looks for the others.
    assert [hint.id for hint in waiting.look().released] == ["array.0", "array.2"]
    assert sorted(waiting.states().values()).count("WAITING") == 3
    waiting.look()
    assert (sorted(waiting.states().values()).count("QUEUED"), waiting.left()) == (7, 0)


def test_several_that_look_at_once_do_it_once(waiting: Waiting) -> None:
    first = waiting.task("first")
    for number in range(4):
        waiting.task(f"t{number}", first)
    waiting.end("first")
    with ThreadPoolExecutor(4) as threads:
        looks = list(threads.map(lambda _: waiting.look(), range(4)))
    released = sorted(hint.id for look in looks for hint in look.released)
    assert released == ["t0", "t1", "t2", "t3"]
    assert waiting.left() == 0


def test_what_it_held_is_given_back_when_it_never_runs(waiting: Waiting) -> None:
    """One whose results are compared holds when it is accepted."""
    first = waiting.task("first")

    def held(connection: Connection) -> None:
        add_held_task(connection, waiting.user_id, "compared", created_at=1.0)
        connection.execute(update(tasks).where(tasks.c.id == "compared").values(state="WAITING"))
        dependencies.add(connection, Unit("compared"), [Need(first, False, _OPEN)])

    waiting.database.write(held)
    waiting.end("first", TaskState.STOPPED)
    assert waiting.look().stopped == ["compared"]
    assert waiting.database.read(lambda c: ledger_store.balance(c, waiting.user_id))[1] == 0
    assert ledger_store.verify_database(waiting.database).problems == []
