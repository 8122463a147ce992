"""History in the whole: SQL, Redis and the dispatcher's own code see it at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.tables import users
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.reservations import reserve
from tests.support.stores import CLAIM, add_user, assigned_ids, attempt_of
from tests.support.valkey import TestValkey


class Stage(Fleet):
    def view(self, node_id: str) -> NodeView:
        views = self.dispatcher.registry.snapshot(self.dispatcher.settings.node_late_seconds)
        return {view.node_id: view for view in views}[node_id]

    def end(self, task_id: str, outcome: Outcome, *, blameless: bool = False) -> None:
        row = self.row(task_id)
        attempt_id = attempt_of(self.dispatcher.database, task_id)
        if outcome in {Outcome.SUCCEEDED, Outcome.FAILED}:
            self.dispatcher.database.write(
                lambda c: task_store.claim_attempt(c, attempt_id, row.node_id, self.owner_id, self.now[0])
            )
        end = End(outcome=outcome, exit_code=None, reason=told("said so"), blameless=blameless)
        self.dispatcher.lifecycle.end_attempt(attempt_id, row.node_id, self.owner_id, end)

    def forget(self, task_id: str) -> None:
        """The waiting task is stopped and asks for no node any more."""
        self.dispatcher.database.write(lambda c: task_store.request_stop(c, task_id, self.now[0]))

    def lose(self, *, times: int) -> None:
        for _ in range(times):
            task_id = self.placed()
            self.end(task_id, Outcome.LOST)
            self.forget(task_id)

    def score(self, credit_score: int) -> None:
        self.dispatcher.database.write(
            lambda c: c.execute(
                update(users).where(users.c.id == self.owner_id).values(credit_score=credit_score)
            )
        )
        self.dispatcher.lifecycle.sync_nodes_of(self.owner_id)


@pytest.fixture
def stage(valkey: TestValkey, tmp_path: Path) -> Iterator[Stage]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Stage(dispatcher, now, dispatcher.database.write(add_user))


def test_of_two_equal_nodes_the_one_with_the_better_history_gets_the_task(stage: Stage) -> None:
    stage.node("n1")
    for _ in range(2):
        stage.end(stage.placed(), Outcome.SUCCEEDED)
    praised = stage.view("n1").quality
    stage.lose(times=2)
    assert stage.view("n1").quality < praised
    stage.node("n2")
    assert stage.row(stage.placed()).node_id == "n2"


def test_of_two_equal_nodes_without_a_blemish_the_proven_one_gets_the_task(stage: Stage) -> None:
    stage.node("n2")
    for _ in range(20):
        stage.end(stage.placed(), Outcome.SUCCEEDED)
    stage.node("n1")
    assert stage.row(stage.placed()).node_id == "n2"


def test_a_node_on_probation_gets_one_task_at_a_time_until_one_succeeds(stage: Stage) -> None:
    stage.node("n1")
    stage.lose(times=2)
    stage.end(last := stage.placed(), Outcome.REFUSED)
    stage.forget(last)
    stage.sweep(after=60, heard=("n1",))  # it was left alone for a while
    # The reservation is the judge, and knows it before any sweep.
    registry = stage.dispatcher.registry
    assert reserve(registry, "n1", "one:1", CLAIM, at=stage.now[0]) == "ok"
    assert reserve(registry, "n1", "another:1", CLAIM, at=stage.now[0]) == "full tasks"
    registry.release("n1", "one:1")

    waiting = [stage.task() for _ in range(4)]
    assert stage.place(*waiting) == 1
    first = next(task_id for task_id in waiting if stage.row(task_id).node_id)
    stage.end(first, Outcome.FAILED)  # its own doing, and no success
    assert stage.place(*waiting) == 1
    second = next(task_id for task_id in waiting if stage.row(task_id).state == "PLACED")
    stage.end(second, Outcome.SUCCEEDED)
    assert stage.place(*waiting) == 2
    assert stage.reserved("n1").tasks == 2


def test_what_runs_on_a_node_that_comes_on_probation_runs_on(stage: Stage) -> None:
    stage.node("n1")
    running = [stage.placed() for _ in range(3)]
    stage.lose(times=3)
    assert stage.view("n1").capacity.tasks == 1
    stage.sweep(after=2, heard=("n1",))
    assert stage.states(*running) == ["PLACED"] * 3
    assert stage.reserved("n1").tasks == 3
    assert stage.place(stage.task()) == 0


def test_evictions_put_nobody_on_probation(stage: Stage) -> None:
    stage.node("n1")
    before = stage.view("n1")
    for _ in range(5):
        task_id = stage.placed()
        stage.end(task_id, Outcome.LOST, blameless=True)
        stage.forget(task_id)
    assert stage.view("n1").quality == before.quality
    assert stage.view("n1").capacity == before.capacity


def test_a_flush_makes_no_node_better(stage: Stage) -> None:
    stage.node("n1")
    stage.lose(times=3)
    before = stage.view("n1")
    stage.dispatcher.redis.flushall()
    stage.sweep(after=2)
    stage.report("n1")
    assert stage.view("n1") == before
    assert before.capacity.tasks == 1
    assert before.quality == 0.4


def test_a_node_that_left_is_not_brought_back_by_its_last_end(stage: Stage) -> None:
    stage.node("n1")
    task_id = stage.placed()
    stage.dispatcher.database.write(lambda c: node_store.deactivate(c, "n1"))
    stage.dispatcher.registry.remove_node("n1")
    stage.end(task_id, Outcome.LOST)
    assert stage.dispatcher.registry.node_ids() == set()


def test_a_credit_score_that_changes_moves_its_owners_nodes_at_once(stage: Stage) -> None:
    other = stage.dispatcher.database.write(lambda c: add_user(c, "other"))
    stage.node("n1")
    stage.node("n2")
    mine, stage.owner_id = stage.owner_id, other
    stage.node("theirs")
    stage.owner_id = mine
    stage.silence("theirs")
    running = stage.placed()
    where = stage.row(running).node_id

    def tiers() -> list[Tier]:
        return [stage.view(node_id).tier for node_id in ("n1", "n2", "theirs")]

    seen = [tiers()]
    for score in (60, 10, 100):
        stage.score(score)
        seen.append(tiers())
    high, normal, low = Tier.HIGH, Tier.NORMAL, Tier.LOW
    assert seen == [[high, high, high], [normal, normal, high], [low, low, high], [high, high, high]]
    assert stage.row(running).state == "PLACED"
    assert stage.reserved(where).tasks == 1
    assert attempt_of(stage.dispatcher.database, running, 1) in assigned_ids(stage.dispatcher.registry, where)


def test_a_node_that_fell_is_open_to_those_whom_it_was_closed_to(stage: Stage) -> None:
    stage.node("n1")
    modest = stage.task(tier="low")
    assert stage.place(modest) == 0
    stage.score(10)
    assert stage.place() == 1
    assert stage.row(modest).node_id == "n1"


def test_a_change_that_is_told_when_the_fleet_is_looked_at_anyway_is_seen(stage: Stage) -> None:
    stage.node("n1")
    modest = stage.task(tier="low")
    assert stage.place(modest) == 0
    stage.score(10)
    stage.placement_loop.node_changed("n1")
    stage.placement_loop._look_at = float("-inf")  # as it is every second
    assert stage.placement_loop.work() == 1


def test_a_node_that_registers_with_other_hardware_is_recomputed_and_keeps_what_runs(stage: Stage) -> None:
    stage.node("n1")
    running = stage.placed()
    stage.node("n1", total=Resources(cpu_score=1000, memory_gb=2), docker_status="unavailable", max_tasks=3)
    view = stage.view("n1")
    assert (view.capacity.cpu_score, view.capacity.memory_mb, view.capacity.tasks) == (1500, 2048, 3)
    assert view.tier is Tier.LOW
    assert view.reserved.tasks == 1
    assert assigned_ids(stage.dispatcher.registry, "n1") == {
        attempt_of(stage.dispatcher.database, running, 1)
    }
    stage.node("n1")
    assert stage.view("n1").tier is Tier.HIGH
    assert stage.states(running) == ["PLACED"]
