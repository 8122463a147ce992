"""Ended tasks are counted a part at a time, and come out as they are."""

from __future__ import annotations

from sqlalchemy import delete, update

from dispatcher.ended_task_counts import EndedTaskCounts
from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import tasks
from tests.support.stores import add_task, add_user, migrated


def test_a_few_at_each_look_and_right_in_the_end(database_url: str) -> None:
    with migrated(database_url) as database:
        owner = database.write(add_user)

        def put(state: TaskState, count: int) -> None:
            for _ in range(count):
                database.write(lambda c: add_task(c, owner, state=state, finished_at=1.0))

        put(TaskState.SUCCEEDED, 5)
        put(TaskState.FAILED, 2)
        counts = EndedTaskCounts(at_once=2)
        assert database.read(counts.look) == _as(5, 2, 0)
        put(TaskState.SUCCEEDED, 3)
        put(TaskState.STOPPED, 1)
        assert _after(database, counts, looks=1)[TaskState.SUCCEEDED] == 5, "they are not through yet"
        assert _after(database, counts, looks=8) == _as(8, 2, 1)
        stopped = tasks.c.state == TaskState.STOPPED
        database.write(lambda c: c.execute(delete(tasks).where(stopped)))
        assert _after(database, counts, looks=8) == _as(8, 2, 0)
        # Of a pool that is not large each look finds everything.
        at_once = EndedTaskCounts()
        database.read(at_once.look)
        database.write(lambda c: c.execute(update(tasks).values(state=TaskState.FAILED)))
        assert database.read(at_once.look) == _as(0, 10, 0)


def _as(succeeded: int, failed: int, stopped: int) -> dict[TaskState, int]:
    return {TaskState.SUCCEEDED: succeeded, TaskState.FAILED: failed, TaskState.STOPPED: stopped}


def _after(database: Database, counts: EndedTaskCounts, *, looks: int) -> dict[TaskState, int]:
    for _ in range(looks):
        found = database.read(counts.look)
    return found
