"""Nodes that refuse, and nodes that say that they are unfit: where tasks go, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.nodes.fitness import ASKED_AGAIN_SECONDS, LONGEST_BACKOFF_SECONDS
from nodepool.domain.tasks.reason_classes import told_by_node
from nodepool.domain.tasks.states import Outcome
from nodepool.stores.sql import attempts as attempt_store
from nodepool.stores.sql.tables import credit_changes, nodes, users
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.stores import add_user, attempt_of
from tests.support.valkey import TestValkey

ABSENT = "the image i:1 is not on this node, which never pulls images itself"
FULL = "the node's disk or system failed: No space left on device"
NO_ROOM_FOR_IT = "the node has too little disk"


class Stage(Fleet):
    user_id: int

    def someone_elses(self, **columns: object) -> str:
        """A task of a user who has no nodes."""
        owner, self.owner_id = self.owner_id, self.user_id
        try:
            return self.task(**columns)
        finally:
            self.owner_id = owner

    def end(self, task_id: str, outcome: Outcome, words: str = "", code: str = "") -> None:
        row = self.row(task_id)
        attempt_id = attempt_of(self.dispatcher.database, task_id)
        end = End(outcome=outcome, exit_code=None, reason=told_by_node(outcome, code, words))
        self.dispatcher.lifecycle.end_attempt(attempt_id, row.node_id, self.owner_id, end)

    def refuse(self, task_id: str, words: str, code: str = "") -> str:
        node_id = self.row(task_id).node_id
        self.end(task_id, Outcome.REFUSED, words, code)
        return node_id

    def later(self, seconds: float, *node_ids: str) -> None:
        self.sweep(after=seconds, heard=node_ids)

    def why(self, task_id: str) -> str:
        """Why it waits now; its row is told so every few seconds."""
        queue = self.placement_loop.planner.queue
        task = queue.find(task_id)
        assert task is not None
        group = queue.group_of(task.requirements)
        assert group is not None
        return str(self.placement_loop.planner.decide(group).reason())

    def nothing_was_lost(self) -> None:
        """No credit, no history, no probation of anybody."""
        with self.dispatcher.database.engine.connect() as c:
            assert c.execute(select(credit_changes.c.kind)).all() == []
            rows = c.execute(select(nodes.c.history_bad, nodes.c.bad_streak)).all()
        assert {tuple(row) for row in rows} == {(0, 0)}


@pytest.fixture
def stage(valkey: TestValkey, tmp_path: Path) -> Iterator[Stage]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now, steady=False) as dispatcher:
        stage = Stage(dispatcher, now, dispatcher.database.write(add_user))
        stage.user_id = dispatcher.database.write(lambda c: add_user(c, "user"))
        dispatcher.database.write(lambda c: c.execute(update(users).values(credit_score=100)))
        yield stage


def test_a_full_disk_on_the_only_node_fails_no_task(stage: Stage) -> None:
    stage.node("n1")
    waiting = [stage.someone_elses() for _ in range(8)]
    refused = 0
    for _ in range(100):
        stage.place(*waiting)
        for task_id in waiting:
            if stage.row(task_id).state == "PLACED":
                stage.refuse(task_id, FULL)
                refused += 1
        stage.later(5, "n1")
    assert set(stage.states(*waiting)) == {"QUEUED"}
    # Eight at first; then a pause that grows: 5 s, 10 s, 20 s.
    assert refused <= 8 * 7
    assert "left alone for a while" in stage.why(waiting[0])
    # Mended, and told: at once, and not when the pause is over.
    stage.dispatcher.database.write(lambda c: c.execute(update(nodes).values(backoff_until=0.0)))
    stage.dispatcher.lifecycle.sync_node("n1")
    stage.place()
    assert "PLACED" in stage.states(*waiting)


def test_a_node_without_room_on_its_disk_keeps_no_task_from_the_others(stage: Stage) -> None:
    stage.node("broken")
    stage.node("sound")
    done = []
    for _ in range(12):
        task_id = stage.someone_elses()
        stage.place(task_id)
        for _ in range(2):
            if stage.row(task_id).node_id == "broken":
                stage.refuse(task_id, FULL)
                stage.place(task_id)
        done.append(stage.row(task_id).node_id)
        stage.end(task_id, Outcome.STOPPED)
        stage.later(1, "broken", "sound")
    assert set(done) == {"sound"}


def test_an_image_that_no_node_has_costs_nobody_anything_and_the_task_says_so(stage: Stage) -> None:
    for name in ("n1", "n2"):
        stage.node(name)
    tasks = [stage.someone_elses(image="i:1") for _ in range(5)]
    asked = []
    for _ in range(30):
        stage.place(*tasks)
        placed = [task_id for task_id in tasks if stage.row(task_id).state == "PLACED"]
        asked += [stage.refuse(task_id, ABSENT) for task_id in placed]
        stage.later(20, "n1", "n2")
    # Each node is asked for it as long as it has not said so, and not once for each task.
    assert len(asked) <= len(tasks) * 2
    assert set(stage.states(*tasks)) == {"QUEUED"}
    assert stage.why(tasks[0]) == "waiting: looked at 2 nodes: 2 without the image i:1"
    stage.nothing_was_lost()
    # Other work goes there as before.
    other = stage.placed()
    assert stage.row(other).node_id in {"n1", "n2"}
    # It may have come, on an agent that does not tell.
    stage.later(ASKED_AGAIN_SECONDS, "n1", "n2")
    stage.place(*tasks)
    assert "PLACED" in stage.states(*tasks)


def test_what_a_node_cannot_do_for_one_task_it_is_not_asked_again(stage: Stage) -> None:
    stage.node("n1")
    task_id = stage.someone_elses()
    stage.place(task_id)
    stage.refuse(task_id, NO_ROOM_FOR_IT, "too_little_disk")
    for _ in range(5):
        stage.later(40, "n1")
        assert stage.row(task_id).state == "QUEUED"
    assert "1 refused it, and not changed since" in stage.why(task_id)
    stage.nothing_was_lost()
    # Another task of the same user goes there, and this one to another node.
    other = stage.someone_elses()
    stage.place(other)
    assert stage.row(other).node_id == "n1"
    stage.node("n2")
    stage.place(task_id)
    assert stage.row(task_id).node_id == "n2"
    (first, _) = stage.dispatcher.database.read(lambda c: attempt_store.of_task(c, task_id))
    assert first.reason_class == "node_for_task"


def test_a_refusal_costs_no_credit_but_counts_in_the_history_when_it_is_the_nodes_fault(stage: Stage) -> None:
    stage.node("n1")
    task_id = stage.someone_elses()
    stage.place(task_id)
    stage.refuse(task_id, FULL)
    with stage.dispatcher.database.engine.connect() as c:
        assert c.execute(select(credit_changes.c.kind)).all() == []
        assert c.execute(select(nodes.c.history_bad)).scalar_one() == 1


def test_a_node_that_says_that_it_is_unfit_gets_nothing_and_is_not_lost(stage: Stage) -> None:
    stage.node("n1")
    words = "the node's disk is full: 3 MiB are free in agent, and 64 are needed"
    stage.dispatcher.database.write(lambda c: c.execute(update(nodes).values(unfit=words)))
    stage.later(1, "n1")  # found by the sweep, whoever told it
    task_id = stage.someone_elses()
    assert stage.place(task_id) == 0
    assert "1 unfit for now" in stage.why(task_id)
    (view,) = stage.dispatcher.registry.snapshot(15)
    assert (view.unfit, view.draining) == (words, True)
    stage.dispatcher.database.write(lambda c: c.execute(update(nodes).values(unfit="")))
    stage.later(1, "n1")
    assert stage.row(task_id).state == "PLACED"


def test_a_node_that_refuses_everything_is_asked_less_and_less(stage: Stage) -> None:
    stage.node("hostile")
    asked = 0
    for _ in range(60):
        task_id = stage.someone_elses()
        if stage.place(task_id):
            stage.refuse(task_id, "because I say so")
            asked += 1
        stage.later(LONGEST_BACKOFF_SECONDS / 60, "hostile")
    assert asked <= 7
