"""One task at a time for untrusted nodes, on a real Valkey and SQLite: dispatchers, the sweep, explain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert

from dispatcher import context
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.redis.node_registry import Reservation
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.tables import node_records
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.reservations import reserve
from tests.support.stores import CLAIM, add_node, add_user, attempt_of
from tests.support.valkey import TestValkey


class Stage(Fleet):
    """The fleet's owner is a newcomer with a node without Docker, `new`; `friend` has the trusted ones."""

    friend: int

    def view(self, node_id: str) -> NodeView:
        return {view.node_id: view for view in self.dispatcher.registry.snapshot(15)}[node_id]

    def trusted_node(self, node_id: str, **facts: object) -> str:
        now, database = self.now[0], self.dispatcher.database
        database.write(lambda c: add_node(c, self.friend, node_id, now=now, **facts))
        self.dispatcher.lifecycle.sync_node(node_id)
        self.report(node_id)
        return node_id

    def tasks(self, count: int) -> list[str]:
        return [self.task() for _ in range(count)]

    def on(self, node_id: str, *task_ids: str) -> list[str]:
        return [task_id for task_id in task_ids if self.row(task_id).node_id == node_id]


@pytest.fixture
def stage(valkey: TestValkey, tmp_path: Path) -> Iterator[Stage]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path,
            "check_owners_least": 1,
        }
    )
    now = [START]
    dispatcher = context.build(settings, clock=lambda: now[0], steady=lambda: now[0])
    stage = Stage(dispatcher, now, dispatcher.database.write(add_user))
    stage.friend = dispatcher.database.write(lambda c: add_user(c, "friend"))
    stage.node("new", docker_status="none")
    yield stage
    dispatcher.close()


def test_a_newcomer_alone_gets_all_that_fits_and_keeps_it_when_a_trusted_node_comes(stage: Stage) -> None:
    running = stage.tasks(3)
    assert stage.place(*running) == 3
    stage.trusted_node("old", max_tasks=1)
    more = stage.tasks(2)
    assert stage.place(*more) == 1
    assert stage.on("old", *more)
    stage.sweep(after=2, heard=("new", "old"))
    assert stage.states(*running) == ["PLACED"] * 3
    assert stage.reserved("new").tasks == 3


def test_beside_a_trusted_node_a_newcomer_gets_one_task_at_a_time_until_it_is_trusted(stage: Stage) -> None:
    stage.trusted_node("old", max_tasks=2)
    waiting = stage.tasks(5)
    assert stage.place(*waiting) == 3
    assert len(stage.on("new", *waiting)) == 1
    left = next(task_id for task_id in waiting if not stage.row(task_id).node_id)
    assert "one task at a time until its results are verified" in stage.row(left).reason

    database = stage.dispatcher.database
    database.write(lambda c: c.execute(insert(node_records).values(node_id="new", verified=60)))
    stage.dispatcher.lifecycle.sync_node("new")
    assert not stage.view("new").on_trial
    assert stage.place() == 2
    assert len(stage.on("new", *waiting)) == 3


def test_when_the_trusted_node_goes_away_the_newcomer_gets_what_waits(stage: Stage) -> None:
    stage.trusted_node("old", max_tasks=1)
    waiting = stage.tasks(4)
    assert stage.place(*waiting) == 2
    stage.silence("old")
    assert stage.place() == 2
    assert len(stage.on("new", *waiting)) == 3


def test_when_its_one_task_ends_the_newcomer_gets_the_next_one(stage: Stage) -> None:
    stage.trusted_node("old", max_tasks=1)
    waiting = stage.tasks(3)
    assert stage.place(*waiting) == 2
    (first,) = stage.on("new", *waiting)
    attempt = attempt_of(stage.dispatcher.database, first)
    stage.dispatcher.database.write(
        lambda c: task_store.claim_attempt(c, attempt, "new", stage.owner_id, stage.now[0])
    )
    end = End(outcome=Outcome.FAILED, exit_code=1, reason=told(""))
    stage.dispatcher.lifecycle.end_attempt(attempt, "new", stage.owner_id, end)
    assert stage.place() == 1
    assert len(stage.on("new", *waiting)) == 2


def test_two_dispatchers_that_see_the_node_free_give_it_one_task(stage: Stage) -> None:
    stage.trusted_node("old", max_tasks=1)
    placement_loops = [PlacementLoop(stage.dispatcher) for _ in range(2)]
    for placement_loop in placement_loops:
        assert placement_loop.work() == 0  # both have their picture of the fleet now
    waiting = stage.tasks(4)
    for number, placement_loop in enumerate(placement_loops):
        placement_loop.hint(*waiting[2 * number : 2 * number + 2])
        placement_loop.work()
    assert len(stage.on("new", *waiting)) == 1
    assert len(stage.on("old", *waiting)) == 1


def test_the_reservation_is_the_judge_and_goes_by_the_facts_of_the_moment(stage: Stage) -> None:
    registry, now = stage.dispatcher.registry, stage.now[0]
    first = Reservation("new", "one:1", CLAIM, one_task=True)
    wanted = [first, replace(first, attempt_id="two:1"), replace(first, attempt_id="one:1")]
    assert registry.reserve_all(wanted, at=now) == ["ok", "on trial", "again"]
    # A dispatcher that knows nobody to prefer, and one whose picture is older than the node's trust.
    assert reserve(registry, "new", "three:1", CLAIM, at=now) == "ok"
    node = stage.trusted_node("old")
    assert registry.reserve_all([replace(first, node_id=node, attempt_id=f"x{n}") for n in "12"], at=now) == [
        "ok",
        "ok",
    ]
    assert stage.view("new").on_trial
    assert not stage.view("old").on_trial


def test_where_nothing_is_checked_or_an_owner_keeps_a_node_for_himself_nobody_is_on_trial(
    stage: Stage,
) -> None:
    stage.node("own", docker_status="none", isolation="none")
    assert not stage.view("own").on_trial
    lifecycle = stage.dispatcher.lifecycle
    unchecked = lifecycle.settings.model_copy(update={"audit_share": 0.0})
    replace(lifecycle, settings=unchecked).sync_node("new")
    assert not stage.view("new").on_trial
