"""Events of a transaction, on both databases: told once, after the commit, and of what is undone nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import structlog
from sqlalchemy import text

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.events.catalogue import LeaveCause, UserRegistered
from nodepool.settings import Settings
from nodepool.stores.sql import admin as admin_store, nodes as node_store, tasks as task_store
from nodepool.stores.sql.database import Connection, Database
from nodepool.stores.sql.noted_events import note
from nodepool.workflows.attempt_end import end_in_sql
from tests.support.stores import add_node, add_task, add_user, migrated, place

SETTINGS = Settings.model_validate({"audit_share": 0})
TIMES = 6


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as found:
        yield found


@pytest.fixture
def others(database: Database) -> Iterator[list[Database]]:
    """As many processes on one database, as far as it can tell."""
    found = [database, Database(database.engine.url.render_as_string(hide_password=False))]
    yield found
    found[1].close()


def lose(connection: Connection, attempt: str, owner_id: int) -> None:
    end = End(outcome=Outcome.LOST, exit_code=None, reason=because(ReasonCode.NODE_LEFT, node="n1"))
    end_in_sql(connection, attempt, "n1", owner_id, end, settings=SETTINGS, now=9.0)


def test_each_change_is_told_once_however_often_and_by_whomever_it_is_made(others: list[Database]) -> None:
    database = others[0]
    owner = database.write(add_user)
    stranger = database.write(lambda c: add_user(c, "stranger"))
    task = database.write(lambda c: add_task(c, stranger))
    database.write(lambda c: add_node(c, owner, "n1"))
    attempt = f"{task}:1"
    steps = (
        ("node.joined", lambda c: add_node(c, owner, "n2")),
        ("task.placed", lambda c: place(c, task, "n1")),
        ("attempt.ended", lambda c: lose(c, attempt, owner)),
        ("task.ended", lambda c: task_store.request_stop(c, task, 10.0)),
        ("node.drained", lambda c: node_store.set_draining(c, "n2", draining=True)),
        ("node.undrained", lambda c: node_store.set_draining(c, "n2", draining=False)),
        ("node.left", lambda c: node_store.deactivate(c, "n2", LeaveCause.SIGNED_OFF)),
        ("node.joined", lambda c: add_node(c, owner, "n2")),
    )

    def act(number: int, work: Any) -> None:
        with suppress(StaleAttemptError):
            others[number % len(others)].write(work)

    with structlog.testing.capture_logs() as lines, ThreadPoolExecutor(TIMES) as threads:
        for _, work in steps:
            # The first inserts the row; a node that is there belongs to whoever has it.
            act(0, work)
            list(threads.map(lambda number, work=work: act(number, work), range(TIMES)))  # type: ignore[misc]
    assert [it["action"] for it in lines] == [action for action, _ in steps]
    placed, ended = lines[1], lines[2]
    assert (placed["attempt"], placed["node"], placed["owner_id"]) == (attempt, "n1", stranger)
    assert (ended["reason"], ended["reason_class"], ended["state"]) == ("node_left", "node", "QUEUED")


def test_what_is_undone_is_not_told(database: Database) -> None:
    owner = database.write(add_user)
    boom = RuntimeError("the rest of it fails")

    def fails(connection: Connection) -> None:
        add_node(connection, owner, "n1")
        admin_store.record(connection, "root", "block", "ada", {}, 1.0)
        raise boom

    def fails_in_sql(connection: Connection) -> None:
        add_node(connection, owner, "n1")
        connection.execute(text("INSERT INTO nodes (nothing) VALUES (1)"))

    with structlog.testing.capture_logs() as lines:
        for work in (fails, fails_in_sql):
            with pytest.raises(Exception):  # noqa: B017, PT011 - each database has its own
                database.write(work)
        # A neighbour of the same moment is told, and is the only one.
        with ThreadPoolExecutor(2) as threads:
            failing = threads.submit(database.write, fails)
            threads.submit(database.write, lambda c: add_node(c, owner, "n2")).result()
            assert failing.exception() is boom
    assert [(it["action"], it["node"]) for it in lines] == [("node.joined", "n2")]


def test_nothing_is_told_before_it_is_on_disk(database: Database) -> None:
    seen: list[list[str]] = []

    def work(connection: Connection) -> None:
        add_user(connection)
        note(connection, UserRegistered(user="owner"))
        seen.append([it["action"] for it in lines])

    with structlog.testing.capture_logs() as lines:
        database.write(work)
    assert seen == [[]]
    assert [it["action"] for it in lines] == ["user.registered"]


def test_what_somebody_notes_without_a_write_of_the_pools_is_told_by_nobody(database: Database) -> None:
    with structlog.testing.capture_logs() as lines:
        database.read(lambda c: note(c, UserRegistered(user="owner")))
    assert lines == []
