"""What a lost attempt said is kept where no other follows it, and counts as what its owner keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dispatcher import context
from dispatcher.context import Dispatcher, open_files
from nodepool.domain.errors import NotFoundError
from nodepool.domain.tasks.reasons import NO_REASON, ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.sql import storage_accounting, tasks as task_store
from nodepool.workflows import stored_files
from nodepool.workflows.kept_output import keep_lost_output
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.pushed import PushedFleet
from tests.support.stores import add_user, attempt_of
from tests.support.valkey import TestValkey

_SAID = b"one\ntwo"


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path / "storage",
            "max_attempts": 2,
        }
    )
    now = [START]
    with closing(context.build(settings, clock=lambda: now[0], steady=lambda: now[0])) as built:
        fleet = Fleet(built, now, built.database.write(add_user))
        for node_id in ("n1", "n2"):
            fleet.node(node_id)
        yield fleet


def _counted(dispatcher: Dispatcher, user_id: int, task_id: str) -> int:
    """What the account keeps beside the package of the task, when its end was looked at."""
    database, files = dispatcher.database, open_files(dispatcher.settings)
    before = database.read(lambda c: storage_accounting.stored_bytes(c, user_id))
    stored_files.settle(database, files, [task_id])
    added = database.read(lambda c: storage_accounting.stored_bytes(c, user_id)) - before
    counted = database.write(lambda c: storage_accounting.recount(c, user_id))
    assert counted >= added
    return added


def test_the_output_of_the_last_lost_attempt_is_kept_and_counted(fleet: Fleet) -> None:
    dispatcher = fleet.dispatcher
    files = open_files(dispatcher.settings)
    task_id = fleet.running()
    lost: list[str] = []
    for number in (1, 2):
        attempt = attempt_of(dispatcher.database, task_id, number)
        dispatcher.lifecycle.outputs.append(attempt, 0, _SAID, task_id=task_id)
        row = fleet.row(task_id)
        reason = because(ReasonCode.NODE_LATE, node=row.node_id, seconds=15.0)
        dispatcher.lifecycle.lose_attempt(attempt, row.node_id, fleet.owner_id, reason)
        lost.append(attempt)
        if number == 1:
            assert fleet.states(task_id) == ["QUEUED"]
            assert fleet.place(task_id) == 1
            second, node_id = attempt_of(dispatcher.database, task_id, 2), fleet.row(task_id).node_id
            dispatcher.database.write(
                lambda c: task_store.claim_attempt(c, second, node_id, fleet.owner_id, fleet.now[0])  # noqa: B023
            )
    assert fleet.states(task_id) == ["FAILED"]
    with pytest.raises(NotFoundError):
        files.log_bytes(lost[0])
    kept = files.log_bytes(lost[1])
    assert kept.startswith(_SAID + b"\n[the attempt was lost: node n")
    assert kept.endswith(b"not known]\n")
    assert fleet.row(task_id).log_bytes == len(kept)
    assert _counted(dispatcher, fleet.owner_id, task_id) == len(kept)


def test_a_task_that_its_owner_deleted_meanwhile_keeps_nothing(fleet: Fleet) -> None:
    dispatcher = fleet.dispatcher
    files = open_files(dispatcher.settings)
    task_id = fleet.running()
    attempt, node_id = attempt_of(dispatcher.database, task_id), fleet.row(task_id).node_id
    dispatcher.lifecycle.outputs.append(attempt, 0, _SAID, task_id=task_id)
    reason = because(ReasonCode.NODE_LEFT, node=node_id)
    row = fleet.row(task_id)
    keep_lost_output(
        dispatcher.database, files, dispatcher.lifecycle.outputs,
        task_id=task_id, attempt_number=row.attempt_number, attempt_id=attempt, reason=reason,
    )  # fmt: skip
    with pytest.raises(NotFoundError):
        files.log_bytes(attempt)


def test_stored_output_of_a_worker_without_an_agent_is_counted(valkey: TestValkey, tmp_path: Path) -> None:
    fleet = PushedFleet(valkey, tmp_path)
    try:
        attempt = fleet.assigned(fleet.node())
        fleet.claimed(attempt, "worker")
        fleet.dispatcher.lifecycle.outputs.append_at_end(attempt, _SAID)
        fleet.effects.end(attempt, Outcome.SUCCEEDED, NO_REASON)
        task = fleet.task(attempt)
        assert (task.state, task.log_bytes) == ("SUCCEEDED", len(_SAID))
        assert _counted(fleet.dispatcher, fleet.owner_id, task.id) == len(_SAID)
    finally:
        fleet.close()
