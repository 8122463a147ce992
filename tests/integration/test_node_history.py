"""History and records in SQL, on SQLite and PostgreSQL: written with the end of an attempt, once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Row, select

from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import StaleAttemptError
from nodepool.domain.nodes.history import HistoryRules, NodeHistory
from nodepool.domain.resources import Claim, Overcommit, Resources
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome, TaskState
from nodepool.settings import Settings
from nodepool.stores.sql import (
    attempts as attempt_records,
    nodes as node_store,
    placements as placing,
    tasks as task_store,
)
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.placements import Placement
from nodepool.stores.sql.tables import attempts
from nodepool.stores.sql.task_rows import OwnedTask
from nodepool.workflows.attempt_end import Ended, end_in_sql
from tests.support.stores import CLAIM, add_node, add_task, add_user, migrated

RULES = HistoryRules(half_life_seconds=1e12, probation_after=3)
SETTINGS = Settings.model_validate(
    {
        "max_attempts": 5,
        "audit_share": 0,
        "probation_after": RULES.probation_after,
        "history_half_life_seconds": RULES.half_life_seconds,
    }
)
GIB = 1 << 30


@dataclass
class Story:
    """Tasks of one user on nodes of another, on a clock that the test moves."""

    database: Database
    user_id: int
    owner_id: int
    now: float = 1000.0

    def node(self, node_id: str = "n1", **facts: Any) -> str:
        self.database.write(lambda c: add_node(c, self.owner_id, node_id, **facts))
        return node_id

    def started(self, node_id: str = "n1", *, claim: Claim = CLAIM, **columns: Any) -> str:
        """A task that runs on the node; its attempt's id."""
        columns = {"created_at": self.now, "queued_at": self.now, **columns}
        task_id = self.database.write(lambda c: add_task(c, self.user_id, **columns))
        return self.start_again(task_id, node_id, claim=claim)

    def start_again(self, task_id: str, node_id: str = "n1", *, claim: Claim = CLAIM) -> str:
        task = self.task(task_id)
        placement = Placement(
            task_id, task.attempt_number + 1, node_id, claim, f"{task_id}:{task.attempt_number + 1}"
        )
        assert self.database.write(lambda c: placing.place_all(c, [placement], self.now)).placed
        attempt_id = f"{task_id}:{task.attempt_number + 1}"
        self.database.write(
            lambda c: task_store.claim_attempt(c, attempt_id, node_id, self.owner_id, self.now)
        )
        return attempt_id

    def end(self, attempt_id: str, outcome: Outcome, node_id: str = "n1", **facts: Any) -> Ended:
        end = End(outcome=outcome, exit_code=0, reason=told("said so"), **facts)
        return self.database.write(
            lambda c: end_in_sql(c, attempt_id, node_id, self.owner_id, end, settings=SETTINGS, now=self.now)
        )

    def ran(self, outcome: Outcome, node_id: str = "n1", *, seconds: float = 0.0, **columns: Any) -> Ended:
        attempt_id = self.started(node_id, **columns)
        self.now += seconds
        return self.end(attempt_id, outcome, node_id)

    def task(self, task_id: str) -> OwnedTask:
        return self.database.read(lambda c: task_store.find(c, task_id))

    def attempt(self, attempt_id: str) -> Row[Any]:
        return self.database.read(
            lambda c: c.execute(select(attempts).where(attempts.c.id == attempt_id)).one()
        )

    def history(self, node_id: str = "n1") -> NodeHistory:
        return self.database.read(lambda c: node_store.find(c, node_id)).history


@pytest.fixture
def story(database_url: str) -> Iterator[Story]:
    with migrated(database_url) as database:
        user_id = database.write(lambda c: add_user(c, "user"))
        owner_id = database.write(lambda c: add_user(c, "owner"))
        story = Story(database, user_id, owner_id)
        story.node()
        yield story


@pytest.mark.parametrize(
    ("outcome", "good", "bad", "streak"),
    [
        (Outcome.SUCCEEDED, 1, 0, 0),
        (Outcome.FAILED, 1, 0, 0),
        (Outcome.STOPPED, 0, 0, 0),
        (Outcome.REFUSED, 0, 1, 1),
        (Outcome.LOST, 0, 1, 1),
    ],
)
def test_an_end_is_counted_once_however_often_it_is_told(
    story: Story, outcome: Outcome, good: float, bad: float, streak: int
) -> None:
    attempt_id = story.started()
    assert story.end(attempt_id, outcome).node_changed == (outcome is not Outcome.STOPPED)
    for _ in range(3):
        try:
            assert not story.end(attempt_id, outcome).node_changed
        except StaleAttemptError:
            assert outcome is Outcome.LOST
    history = story.history()
    assert (history.good, history.bad, history.bad_streak) == (good, bad, streak)


def test_an_end_that_is_refused_leaves_no_trace_in_the_history(story: Story) -> None:
    attempt_id = story.started()
    story.end(attempt_id, Outcome.SUCCEEDED)
    before = story.history()
    for outcome in (Outcome.LOST, Outcome.REFUSED, Outcome.FAILED):
        with pytest.raises(StaleAttemptError):
            story.end(attempt_id, outcome)
    assert story.history() == before


def test_ends_that_cross_are_all_counted(story: Story) -> None:
    running = [story.started() for _ in range(24)]
    outcomes = [
        (attempt_id, Outcome.LOST if i % 3 == 0 else Outcome.FAILED) for i, attempt_id in enumerate(running)
    ]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pair: story.end(*pair), outcomes))
    history = story.history()
    assert (history.good, history.bad) == (16, 8)


def test_an_eviction_counts_against_neither_node_nor_task(story: Story) -> None:
    attempt_id = story.started()
    ended = story.end(attempt_id, Outcome.LOST, blameless=True)
    assert ended.state is TaskState.QUEUED
    assert story.task(ended.task.id).attempts_ended == 0
    assert story.history() == NodeHistory()


def test_a_task_pinned_to_the_node_says_nothing_of_it(story: Story) -> None:
    for outcome in (Outcome.SUCCEEDED, Outcome.LOST):
        story.ran(outcome, pinned_node="n1")
    assert story.history() == NodeHistory()


def test_a_node_that_drains_and_hands_back_is_not_punished_like_one_that_crashed(story: Story) -> None:
    running = [story.started() for _ in range(5)]
    story.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    for attempt_id in running[:4]:
        story.end(attempt_id, Outcome.REFUSED)
    story.database.write(lambda c: node_store.deactivate(c, "n1"))
    story.end(running[4], Outcome.LOST)
    history = story.history()
    assert history.bad_streak == 0
    assert history.bad == pytest.approx(0.5)


def test_a_loss_is_no_handing_back_because_the_node_drains(story: Story) -> None:
    attempt_id = story.started()
    story.database.write(lambda c: node_store.set_draining(c, "n1", draining=True))
    story.end(attempt_id, Outcome.LOST)
    assert (story.history().bad, story.history().bad_streak) == (1, 1)


def test_a_node_that_says_it_is_shutting_down_and_does_not_drain_is_not_believed(story: Story) -> None:
    attempt_id = story.started()
    end = End(outcome=Outcome.REFUSED, exit_code=None, reason=told("the node is shutting down"))
    story.database.write(
        lambda c: end_in_sql(c, attempt_id, "n1", story.owner_id, end, settings=SETTINGS, now=story.now)
    )
    assert (story.history().bad, story.history().bad_streak) == (1, 1)


def test_registering_again_washes_nothing_off(story: Story) -> None:
    for _ in range(3):
        story.ran(Outcome.LOST)
    before = story.history()
    story.database.write(lambda c: node_store.deactivate(c, "n1"))
    story.node()
    assert story.history() == before
    assert before.on_probation(RULES)


def test_a_node_slower_than_its_score_promises_has_less_speed(story: Story) -> None:
    claim = Claim(1000, 512, 0, 0)
    story.node("n2")
    package = {"package_sha256": "a" * 64, "claim": claim}
    for _ in range(3):
        story.ran(Outcome.SUCCEEDED, "n2", seconds=100, **package)
    assert story.history("n2").speed_weight == 0
    story.ran(Outcome.SUCCEEDED, "n1", seconds=200, **package)
    history = story.history("n1")
    assert (history.speed_sum, history.speed_weight) == (pytest.approx(0.5), 1)
    # Nothing of it where the package, its owner or the outcome is another, or the runs are short.
    story.ran(Outcome.SUCCEEDED, "n1", seconds=200, claim=claim, package_sha256="b" * 64)
    story.ran(Outcome.FAILED, "n1", seconds=200, **package)
    story.ran(Outcome.SUCCEEDED, "n1", seconds=1, **package)
    assert story.history("n1").speed_weight == pytest.approx(1)


def test_runs_that_a_stranger_adds_do_not_move_the_scale(story: Story) -> None:
    stranger = story.database.write(lambda c: add_user(c, "stranger"))
    story.node("n2")
    mine, story.user_id = story.user_id, stranger
    story.ran(Outcome.SUCCEEDED, "n2", seconds=10, package_sha256="a" * 64)
    story.user_id = mine
    story.ran(Outcome.SUCCEEDED, "n1", seconds=100, package_sha256="a" * 64)
    assert story.history("n1").speed_weight == 0


def test_a_small_machine_is_not_slow_when_it_promised_little(story: Story) -> None:
    story.node("small", cpu_cores=2, total=Resources(cpu_score=1000, memory_gb=4))
    unclaimed = {"package_sha256": "a" * 64, "claim": Claim(0, 512, 0, 0)}
    story.ran(Outcome.SUCCEEDED, "n1", seconds=100, **unclaimed)
    story.ran(Outcome.SUCCEEDED, "small", seconds=200, **unclaimed)
    assert story.history("small").relative_speed == pytest.approx(1.0)
    assert story.history("small").speed_weight == 1


def test_an_attempt_keeps_how_it_went(story: Story) -> None:
    task_id = story.database.write(
        lambda c: add_task(c, story.user_id, created_at=900.0, queued_at=950.0, package_bytes=77)
    )
    first = story.start_again(task_id)
    story.now += 10
    story.end(first, Outcome.LOST)
    story.now += 5
    second = story.start_again(task_id)
    story.now += 60
    story.end(
        second, Outcome.SUCCEEDED, cpu_seconds=42.5, peak_memory_bytes=GIB, output_bytes=8, result_bytes=100
    )
    rows = story.database.read(lambda c: attempt_records.of_task(c, task_id))
    assert [(row.number, row.state, row.queue_seconds) for row in rows] == [
        (1, "lost", 50.0),
        (2, "finished", 5.0),
    ]
    row = rows[1]
    assert (row.created_at, row.started_at, row.finished_at) == (1015.0, 1015.0, 1075.0)
    assert (row.cpu_seconds, row.peak_memory_bytes, row.bytes_in, row.bytes_out) == (42.5, GIB, 77, 108)


def test_a_task_that_was_created_before_queued_at_was_kept_has_a_queue_time(story: Story) -> None:
    attempt_id = story.started(created_at=story.now - 30, queued_at=0.0)
    assert story.attempt(attempt_id).queue_seconds == 30


@pytest.mark.parametrize(
    ("cpu_seconds", "peak", "kept_cpu", "kept_peak"),
    [
        (math.nan, -1, 0.0, 0),
        (-5.0, 1 << 62, 0.0, 8 * GIB),
        (math.inf, 0, 240.0, 0),
        (1e300, GIB, 240.0, GIB),
    ],
)
def test_numbers_that_cannot_be_are_kept_within_what_can(
    story: Story, cpu_seconds: float, peak: int, kept_cpu: float, kept_peak: int
) -> None:
    attempt_id = story.started()
    story.now += 60
    story.end(attempt_id, Outcome.SUCCEEDED, cpu_seconds=cpu_seconds, peak_memory_bytes=peak)
    row = story.attempt(attempt_id)
    assert (row.cpu_seconds, row.peak_memory_bytes) == (kept_cpu, kept_peak)


def test_only_the_last_attempts_are_told(story: Story) -> None:
    task_id = story.database.write(lambda c: add_task(c, story.user_id))
    for _ in range(25):
        story.end(story.start_again(task_id), Outcome.LOST, blameless=True)
    rows = story.database.read(lambda c: attempt_records.of_task(c, task_id))
    assert [row.number for row in rows] == list(range(6, 26))


def test_on_probation_there_is_room_for_one_task(story: Story) -> None:
    def tasks() -> int:
        row = story.database.read(lambda c: node_store.find(c, "n1"))
        return node_store.registered_node(row, Overcommit(), RULES, now=story.now).capacity.tasks

    assert tasks() == 8
    assert [story.ran(Outcome.LOST).node_changed for _ in range(3)] == [True] * 3
    assert tasks() == 1
    assert story.ran(Outcome.SUCCEEDED).node_changed
    assert tasks() == 8


def test_a_node_that_proved_itself_long_ago_changes_its_facts_seldom(story: Story) -> None:
    changed = [story.ran(Outcome.SUCCEEDED).node_changed for _ in range(100)]
    assert changed[0]
    assert changed.count(True) < 25
    assert not any(changed[80:])
