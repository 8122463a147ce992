"""What is asked for every upload and in every sweep is found by an index, however many tasks there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from nodepool.domain.tasks.reasons import Reason, ReasonCode
from nodepool.stores.sql import (
    account_facts,
    ends_to_tell,
    job_steps,
    jobs,
    notifications,
    placements,
    storage_accounting,
    task_lists,
    tasks as task_store,
)
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from tests.support.databases import sqlite_file
from tests.support.stores import add_user

ASKED: dict[str, Callable[[Connection, int], Any]] = {
    "what accepting a task needs to know": lambda c, user: account_facts.account_facts(c, user, "t"),
    "a package that somebody keeps": lambda c, _: storage_accounting.is_kept(c, "a" * 64),
    "a package that its owner keeps": lambda c, user: storage_accounting.is_kept(c, "a" * 64, user, "t"),
    "ended tasks whose storage is due": lambda c, _: storage_accounting.due(c, 10),
    "a balance with what is held": ledger_store.balance,
}
_IDS = [f"t{number}" for number in range(500)]
_REASON = Reason(ReasonCode.STOPPED)
# However many tasks wait, or their owner has.
ASKED_BY_ID: dict[str, Callable[[Connection, int], Any]] = {
    "which of them wait": lambda c, _: placements.waiting(c, _IDS),
    "to whom it is news why it waits": lambda c, _: placements.set_reason(c, _IDS, _REASON, 1.0),
    "what one watches": lambda c, user: task_lists.pulses(c, user, _IDS),
    "what one asks for": lambda c, user: task_lists.own(c, user, _IDS),
}
# However many tasks of jobs wait.
ASKED_OF_SINGLE: dict[str, Callable[[Connection, int], Any]] = {
    "the oldest": lambda c, _: task_store.queued(c, 500),
    "the oldest hints": lambda c, _: task_store.queued(c, 500, hinted_before=1.0),
}


# Asked in every pass of the sweep, mostly for nothing: each by the index of those that it looks for.
ASKED_TO_TELL: dict[str, tuple[str, Callable[[Connection, int], Any]]] = {
    "tasks that are to be told of": ("ix_tasks_notify", lambda c, _: ends_to_tell.tasks_to_tell(c, 10)),
    "jobs that are to be told of": ("ix_jobs_notify", lambda c, _: ends_to_tell.jobs_to_tell(c, 10)),
    "what is due": ("ix_notifications_due", lambda c, _: notifications.is_due(c, 1.0)),
    "what is to be sent": ("ix_notifications_due", lambda c, _: notifications.due(c, 1.0, of_one=5, limit=9)),
    "what goes": ("ix_notifications_ended", lambda c, _: notifications.remove_old(c, 1.0, 9)),
    "how often a user is told": (
        "ix_notifications_user",
        lambda c, user: notifications.first_due_before(c, user, 60),
    ),
    "codes for an address": (
        "ix_notifications_codes",
        lambda c, _: notifications.count_codes(c, "a@b.co", 1.0),
    ),
    "what became of one": (
        "ix_notifications_subject",
        lambda c, user: notifications.of_subject(c, user, "t"),
    ),
}


@pytest.mark.parametrize("what", ASKED_TO_TELL)
def test_what_is_to_be_told_is_found_by_an_index_of_its_own(tmp_path: Path, what: str) -> None:
    index, ask = ASKED_TO_TELL[what]
    for statement, plan in _plans(tmp_path, ask):
        assert index in plan, f"{statement}\n{plan}"


OF_JOBS: dict[str, Callable[[Connection], Any]] = {
    "counts of jobs": lambda c: jobs.counts(c, ["a", "b"]),
    "counts of a flow's steps": lambda c: job_steps.counts(c, "a"),
    "why tasks of a job wait": lambda c: jobs.reasons(c, "a", ["QUEUED", "FAILED"], 5),
    "tasks of a job": lambda c: jobs.tasks_page(c, "a", 5, after=-1, states=["FAILED", "RUNNING"]),
    "whether a job has ended": lambda c: jobs.is_unfinished(c, "a"),
}


@pytest.mark.parametrize("what", OF_JOBS)
def test_of_jobs_only_results_that_are_held_back_are_looked_through(tmp_path: Path, what: str) -> None:
    """These are few; their index has no job."""
    database = Database(f"sqlite:///{sqlite_file(tmp_path / 'users.db')}")
    seen: list[tuple[str, Any]] = []
    try:
        event.listen(
            database.engine,
            "before_cursor_execute",
            lambda _c, _k, text, given, *_: seen.append((text, given)),
        )
        database.read(OF_JOBS[what])
        with database.engine.connect() as connection:
            for statement, parameters in [it for it in seen if "tasks" in it[0]]:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                for row in rows:
                    if str(row[-1]).startswith("SCAN tasks"):
                        assert str(row[-1]).endswith("USING INDEX ix_tasks_held_back"), f"{statement}\n{rows}"
    finally:
        database.close()


@pytest.mark.parametrize("what", ASKED)
def test_nothing_is_looked_through(tmp_path: Path, what: str) -> None:
    """On SQLite, whose indexes of some rows fit a query only where it names these rows as the index does."""
    for statement, plan in _plans(tmp_path, ASKED[what]):
        assert "SCAN" not in plan.replace("SCAN CONSTANT ROW", ""), f"{statement}\n{plan}"
        assert "ix_tasks_owner_created" not in plan, "all tasks of an owner would be looked through"


@pytest.mark.parametrize("what", ASKED_BY_ID)
def test_what_has_an_id_is_found_by_it(tmp_path: Path, what: str) -> None:
    for statement, plan in _plans(tmp_path, ASKED_BY_ID[what]):
        assert "SEARCH tasks USING INDEX sqlite_autoindex_tasks_1 (id=?)" in plan, f"{statement}\n{plan}"


@pytest.mark.parametrize("what", ASKED_OF_SINGLE)
def test_tasks_of_no_job_are_found_beside_many_of_jobs(tmp_path: Path, what: str) -> None:
    for statement, plan in _plans(tmp_path, ASKED_OF_SINGLE[what]):
        assert "ix_tasks_single_state (job_id=? AND state=?)" in plan, f"{statement}\n{plan}"


def _plans(folder: Path, ask: Callable[[Connection, int], Any]) -> list[tuple[str, str]]:
    """Each SELECT of it, and how SQLite would go about it."""
    database = Database(f"sqlite:///{sqlite_file(folder / 'users.db')}")
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    try:
        user = database.write(add_user)
        database.write(lambda c: ledger_store.open_account(c, user, now=1.0))
        event.listen(database.engine, "before_cursor_execute", note)
        database.write(lambda c: ask(c, user))
        event.remove(database.engine, "before_cursor_execute", note)
        asked = [it for it in seen if it[0].startswith("SELECT")]
        assert asked
        with database.engine.connect() as connection:
            return [(statement, _plan(connection, statement, parameters)) for statement, parameters in asked]
    finally:
        database.close()


def _plan(connection: Connection, statement: str, parameters: Any) -> str:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in rows)
