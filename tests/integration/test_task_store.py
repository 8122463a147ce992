"""Guarded changes of tasks and attempts, on SQLite and PostgreSQL: doubled, late and crossing words."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import AlreadyExistsError, NotFoundError, StaleAttemptError, StateConflictError
from nodepool.domain.tasks.reasons import ReasonCode, because, stored, told
from nodepool.domain.tasks.states import (
    ATTEMPT_TRANSITIONS,
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    TASK_TRANSITIONS,
    AttemptState,
    Outcome,
    TaskState,
)
from nodepool.settings import Settings
from nodepool.stores.sql import placements as placing, tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import attempts, tasks
from nodepool.stores.sql.task_rows import AssignedTask, OwnedTask
from nodepool.workflows.attempt_end import Ended, end_in_sql
from tests.support.stores import add_node, add_task, add_user, migrated, place

MAX_ATTEMPTS = 3
SETTINGS = Settings.model_validate({"max_attempts": MAX_ATTEMPTS, "audit_share": 0})
NODES = ("n1", "n2")


@dataclass(frozen=True)
class Store:
    """The store's functions, each in a transaction of its own, by one owner of everything."""

    database: Database
    owner_id: int

    def task(self, task_id: str) -> OwnedTask:
        return self.database.read(lambda c: task_store.find(c, task_id))

    def attempt_states(self, task_id: str) -> list[AttemptState]:
        query = select(attempts.c.state).where(attempts.c.task_id == task_id).order_by(attempts.c.number)
        return [AttemptState(word) for word in self.database.read(lambda c: list(c.execute(query).scalars()))]

    def new_task(self, **columns: Any) -> str:
        return self.database.write(lambda c: add_task(c, self.owner_id, **columns))

    def place(self, task: OwnedTask, node_id: str = "n1") -> bool:
        return self.database.write(lambda c: place(c, task.id, node_id, number=task.attempt_number + 1))

    def claim(self, attempt_id: str, node_id: str = "n1", owner_id: int | None = None) -> AssignedTask:
        owner = self.owner_id if owner_id is None else owner_id
        return self.database.write(lambda c: task_store.claim_attempt(c, attempt_id, node_id, owner, 2.0))

    def end(self, attempt_id: str, outcome: Outcome, node_id: str = "n1", **facts: Any) -> Ended:
        end = End(outcome=outcome, exit_code=0, reason=told("said so"), **facts)
        return self.database.write(
            lambda c: end_in_sql(c, attempt_id, node_id, self.owner_id, end, settings=SETTINGS, now=3.0)
        )

    def stop(self, task_id: str) -> OwnedTask:
        return self.database.write(lambda c: task_store.request_stop(c, task_id, 4.0))

    def running(self) -> str:
        """A task whose first attempt runs on n1."""
        task_id = self.new_task()
        assert self.place(self.task(task_id))
        self.claim(f"{task_id}:1")
        return task_id


def open_store(database: Database) -> Store:
    owner_id = database.write(add_user)
    for node_id in NODES:
        database.write(lambda c, node_id=node_id: add_node(c, owner_id, node_id))  # type: ignore[misc]
    return Store(database, owner_id)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with migrated(database_url) as database:
        yield open_store(database)


def test_an_id_can_be_taken_once(store: Store) -> None:
    store.new_task(task_id="mine")
    with pytest.raises(AlreadyExistsError, match="'mine' already"):
        store.new_task(task_id="mine")


def test_of_two_placements_on_one_snapshot_the_second_changes_nothing(store: Store) -> None:
    task = store.task(store.new_task())
    assert store.place(task)
    assert not store.place(task, "n2")
    now = store.task(task.id)
    assert (now.state, now.node_id, now.attempt_number) == ("PLACED", "n1", 1)
    assert store.attempt_states(task.id) == [AttemptState.ASSIGNED]


def test_of_many_placements_at_once_one_wins(store: Store) -> None:
    task = store.task(store.new_task())
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: store.place(task, NODES[n % 2]), range(16)))
    assert won.count(True) == 1
    assert store.attempt_states(task.id) == [AttemptState.ASSIGNED]


def test_a_claim_told_many_times_at_once_always_gives_the_attempt(store: Store) -> None:
    task_id = store.new_task()
    store.place(store.task(task_id))
    with ThreadPoolExecutor(8) as threads:
        rows = list(threads.map(lambda _: store.claim(f"{task_id}:1"), range(16)))
    assert {row.id for row in rows} == {task_id}
    assert store.task(task_id).state == TaskState.RUNNING


def test_an_attempt_is_claimed_by_its_node_and_owner_only(store: Store) -> None:
    task_id = store.new_task()
    store.place(store.task(task_id))
    with pytest.raises(NotFoundError):
        store.claim(f"{task_id}:1", "n2")
    with pytest.raises(NotFoundError):
        store.claim(f"{task_id}:1", owner_id=store.owner_id + 1)
    with pytest.raises(NotFoundError):
        store.claim(f"{task_id}:2")
    assert store.task(task_id).state == TaskState.PLACED


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.STOPPED, Outcome.REFUSED])
def test_an_end_told_twice_changes_nothing_the_second_time(store: Store, outcome: Outcome) -> None:
    task_id = store.running()
    first = store.end(f"{task_id}:1", outcome)
    before = store.task(task_id)
    second = store.end(f"{task_id}:1", outcome)
    assert (first.changed, second.changed) == (True, False)
    assert second.state is first.state
    assert store.task(task_id) == before


@pytest.mark.parametrize("first", list(Outcome))
def test_another_end_than_the_first_is_stale_as_is_a_loss_told_again(store: Store, first: Outcome) -> None:
    task_id = store.running()
    store.end(f"{task_id}:1", first)
    before = store.task(task_id)
    for second in Outcome:
        if second is first and first is not Outcome.LOST:
            continue
        with pytest.raises(StaleAttemptError):
            store.end(f"{task_id}:1", second)
    assert store.task(task_id) == before


def test_of_many_ends_at_once_one_counts(store: Store) -> None:
    task_id = store.running()

    def end(_: int) -> bool:
        return store.end(f"{task_id}:1", Outcome.SUCCEEDED, has_result=True, result_bytes=7).changed

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(end, range(16))).count(True) == 1
    task = store.task(task_id)
    assert (task.state, task.result_attempt, task.result_bytes) == ("SUCCEEDED", f"{task_id}:1", 7)


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED])
def test_what_was_never_claimed_cannot_have_run(store: Store, outcome: Outcome) -> None:
    task_id = store.new_task()
    store.place(store.task(task_id))
    with pytest.raises(StateConflictError):
        store.end(f"{task_id}:1", outcome)
    assert store.task(task_id).state == TaskState.PLACED


def test_a_lost_attempt_has_no_effect_on_the_one_after_it(store: Store) -> None:
    task_id = store.running()
    assert store.end(f"{task_id}:1", Outcome.LOST).state is TaskState.QUEUED
    assert store.place(store.task(task_id), "n2")
    for outcome in Outcome:
        with pytest.raises(StaleAttemptError):
            store.end(f"{task_id}:1", outcome)
    with pytest.raises(StaleAttemptError):
        store.claim(f"{task_id}:1")
    task = store.task(task_id)
    assert (task.state, task.node_id, task.attempt_number) == ("PLACED", "n2", 2)


def test_after_max_attempts_the_task_fails_and_says_why(store: Store) -> None:
    task_id = store.new_task()
    # What nodes refuse says nothing of the task, however often.
    for number in range(1, 2 * MAX_ATTEMPTS + 1):
        store.place(store.task(task_id))
        ended = store.end(f"{task_id}:{number}", Outcome.REFUSED if number % 2 else Outcome.LOST)
        assert (ended.state is TaskState.FAILED) == (number == 2 * MAX_ATTEMPTS)
    assert ended.state is TaskState.FAILED
    task = store.task(task_id)
    assert f"after {MAX_ATTEMPTS} attempts" in task.reason
    kept = store.database.read(lambda c: c.execute(select(tasks).where(tasks.c.id == task_id)).one())
    why = stored(kept.reason_code, kept.reason_parameters, kept.reason)
    assert why == because(ReasonCode.GIVEN_UP, attempts=MAX_ATTEMPTS, last=told("said so"))
    assert kept.reason == str(why)
    assert task.finished_at


def test_a_waiting_task_stops_at_once_and_is_never_placed(store: Store) -> None:
    task = store.task(store.new_task())
    assert store.stop(task.id).state == TaskState.QUEUED
    assert store.task(task.id).state == TaskState.STOPPED
    assert not store.place(task)


@pytest.mark.parametrize("claimed", [False, True])
def test_a_placed_or_running_task_is_marked_and_stops_with_its_attempt(
    store: Store, *, claimed: bool
) -> None:
    task_id = store.new_task()
    store.place(store.task(task_id))
    if claimed:
        store.claim(f"{task_id}:1")
    store.stop(task_id)
    task = store.task(task_id)
    assert (task.state, task.stop_requested) == ("RUNNING" if claimed else "PLACED", True)
    assert store.end(f"{task_id}:1", Outcome.LOST).state is TaskState.STOPPED


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.FAILED, Outcome.STOPPED])
def test_a_stop_after_the_end_changes_nothing(store: Store, outcome: Outcome) -> None:
    task_id = store.running()
    store.end(f"{task_id}:1", outcome)
    before = store.task(task_id)
    assert store.stop(task_id) == before
    assert store.task(task_id) == before


def test_a_stop_that_crosses_a_loss_never_leaves_a_task_that_waits_stopped(store: Store) -> None:
    for _ in range(10):
        task_id = store.running()
        with ThreadPoolExecutor(2) as threads:
            lost = threads.submit(store.end, f"{task_id}:1", Outcome.LOST)
            stopped = threads.submit(store.stop, task_id)
            lost.result()
            stopped.result()
        assert store.task(task_id).state == TaskState.STOPPED


def test_queued_gives_the_oldest_first_and_none_that_is_stopped(store: Store) -> None:
    new = store.new_task(created_at=9.0)
    old = store.new_task(created_at=1.0)
    store.stop(store.new_task(created_at=0.5))
    assert [row.id for row in store.database.read(lambda c: task_store.queued(c, 10))] == [old, new]


def test_nodes_that_failed_are_remembered(store: Store) -> None:
    task_id = store.running()
    store.end(f"{task_id}:1", Outcome.LOST)
    assert store.database.read(lambda c: placing.failed_nodes(c, [task_id])) == {task_id: {"n1"}}


class TaskLife(RuleBasedStateMachine):
    """Any order of words about tasks, true and stale."""

    known = Bundle("known")
    database: Database
    store: Store

    @initialize()
    def begin(self) -> None:
        self.store = open_store(self.database)
        self.seen: dict[str, tuple[TaskState, int]] = {}
        self.attempt_seen: dict[str, AttemptState] = {}

    @rule(target=known)
    def submit(self) -> str:
        return self.store.new_task()

    @rule(task_id=known, node=st.sampled_from(NODES), late=st.booleans())
    def place(self, task_id: str, node: str, *, late: bool) -> None:
        task = self.store.task(task_id)
        if late:
            self.store.place(task, "n1")
        self.store.place(task, node)

    @rule(task_id=known, number=st.integers(1, 4), node=st.sampled_from(NODES))
    def claim(self, task_id: str, number: int, node: str) -> None:
        try:
            self.store.claim(f"{task_id}:{number}", node)
        except (StaleAttemptError, NotFoundError):
            return

    @rule(
        task_id=known, number=st.integers(1, 4), node=st.sampled_from(NODES), outcome=st.sampled_from(Outcome)
    )
    def end(self, task_id: str, number: int, node: str, outcome: Outcome) -> None:
        try:
            self.store.end(f"{task_id}:{number}", outcome, node)
        except (StaleAttemptError, NotFoundError, StateConflictError):
            return

    @rule(task_id=known)
    def run(self, task_id: str) -> None:
        """The way that most go, so that it is not seldom."""
        task = self.store.task(task_id)
        self.store.place(task)
        self.claim(task_id, task.attempt_number + 1, "n1")

    @rule(task_id=known)
    def stop(self, task_id: str) -> None:
        self.store.stop(task_id)

    @invariant()
    def rules_hold(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.database.read(lambda c: c.execute(select(tasks)).all())
        tries = self.database.read(lambda c: c.execute(select(attempts)).all())
        for row in rows:
            state = TaskState(row.state)
            live = [t for t in tries if t.task_id == row.id and t.state in LIVE_ATTEMPT_STATES]
            assert len(live) == (1 if state in {TaskState.PLACED, TaskState.RUNNING} else 0)
            assert all(t.number == row.attempt_number for t in live)
            assert not (state is TaskState.QUEUED and row.stop_requested)
            assert row.attempts_ended <= MAX_ATTEMPTS
            assert (row.finished_at is not None) == (state in FINAL_TASK_STATES)
            before, number = self.seen.get(row.id, (TaskState.QUEUED, 0))
            assert row.attempt_number >= number
            assert state is before or before not in FINAL_TASK_STATES
            self.seen[row.id] = (state, row.attempt_number)
        for attempt in tries:
            now = AttemptState(attempt.state)
            was = self.attempt_seen.get(attempt.id)
            assert was is None or now is was or ATTEMPT_TRANSITIONS[was]
            self.attempt_seen[attempt.id] = now


def test_no_order_of_words_breaks_a_rule(database_url: str) -> None:
    assert set(TASK_TRANSITIONS) == set(TaskState)
    with migrated(database_url) as database:

        class Here(TaskLife):
            def __init__(self) -> None:
                super().__init__()
                self.database = database
                with database.engine.begin() as connection:
                    for table in ("attempts", "tasks", "nodes", "users"):
                        connection.exec_driver_sql(f"DELETE FROM {table}")

        case = Here.TestCase
        case.settings = settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        case("runTest").runTest()
