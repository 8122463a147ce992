"""The placement loop on a real Valkey and SQLite: who is next, several dispatchers, events, lost stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispatcher.placing.node_events import NodeEventListener
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.errors import UnavailableError
from nodepool.domain.resources import RESOURCE_NAMES
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.stores.sql import tasks as task_store
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.stores import add_task, add_user, attempt_of
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


class Pool(Fleet):
    """With more users than one, and ends of tasks."""

    def user(self, name: str) -> int:
        return self.dispatcher.database.write(lambda c: add_user(c, name))

    def tasks_of(self, owner_id: int, count: int, **columns: Any) -> list[str]:
        now = self.now[0]
        values = {"created_at": now, "queued_at": now, "updated_at": now, "hinted_at": now, **columns}
        return self.dispatcher.database.write(
            lambda c: [add_task(c, owner_id, **values) for _ in range(count)]
        )

    def end(self, task_id: str, *, after: float = 60.0) -> None:
        """The task has run for so long, and succeeded."""
        row = self.row(task_id)
        attempt = attempt_of(self.dispatcher.database, task_id)
        database, node_id = self.dispatcher.database, row.node_id
        database.write(lambda c: task_store.claim_attempt(c, attempt, node_id, self.owner_id, self.now[0]))
        self.now[0] += after
        self.report(node_id)
        self.dispatcher.lifecycle.end_attempt(
            attempt, node_id, self.owner_id, End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
        )

    def running(self) -> list[str]:
        rows = self.dispatcher.database.read(task_store.live_attempts)
        return [row.task_id for row in rows]

    def check_nothing_is_over_allocated(self, nodes: list[str]) -> None:
        claims = self.dispatcher.registry.allocations(nodes)
        for view in self.dispatcher.registry.snapshot(15):
            for name in RESOURCE_NAMES:
                total = sum(getattr(claim, name) for claim in claims[view.node_id].values())
                assert total == getattr(view.reserved, name) <= getattr(view.capacity, name)


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Pool]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Pool(dispatcher, now, dispatcher.database.write(add_user))


def test_the_one_task_of_a_new_user_starts_within_a_few_placements_of_anothers_two_thousand(
    pool: Pool,
) -> None:
    pool.node("n1", max_tasks=4)
    busy, new = pool.user("busy"), pool.user("new")
    pool.place(*pool.tasks_of(busy, 2000))
    (only,) = pool.tasks_of(new, 1)
    pool.place(only)
    pool.end(pool.running()[0])
    pool.place()
    assert only in pool.running()


def test_use_is_remembered_by_all_dispatchers(pool: Pool) -> None:
    pool.node("n1", max_tasks=1)
    busy, new = pool.user("busy"), pool.user("new")
    ids = pool.tasks_of(busy, 3)
    for task_id in ids[:2]:
        pool.place(task_id)
        pool.end(task_id, after=600)
    (other,) = pool.tasks_of(new, 1, created_at=pool.now[0] + 1)
    another = PlacementLoop(pool.dispatcher)
    another.hint(ids[2], other)
    assert another.work() == 1
    assert pool.running() == [other]


def test_what_a_long_task_used_counts_more_than_what_a_short_one_did(pool: Pool) -> None:
    pool.node("n1", max_tasks=1)
    users = {"long": (pool.user("long"), 3600.0), "short": (pool.user("short"), 1.0)}
    for owner, seconds in users.values():
        (task_id,) = pool.tasks_of(owner, 1)
        pool.place(task_id)
        pool.end(task_id, after=seconds)
    served = pool.dispatcher.usage.of([owner for owner, _ in users.values()], pool.now[0])
    assert served[users["long"][0]] == pytest.approx(0.25 * 60, rel=0.01)
    assert served[users["short"][0]] < 0.01


def test_priority_and_age_order_the_tasks_of_one_user(pool: Pool) -> None:
    pool.node("n1", max_tasks=1)
    first = pool.task()
    pool.place(first)
    now = pool.now[0]
    low, high = pool.task(priority=0), pool.task(priority=9, created_at=now + 1)
    aged = pool.task(priority=0, created_at=now - 600)
    order = []
    pool.place(low, high, aged)
    for _ in range(3):
        pool.end(pool.running()[0], after=1)
        pool.place()
        order += pool.running()
    assert order == [aged, high, low]


def test_a_task_without_a_region_of_its_own_takes_the_nearest_after_its_patience(pool: Pool) -> None:
    pool.node("far", region="south-america", location="South America")
    pool.node("near", region="oceania", location="Oceania")
    strict = pool.task(region="asia", queued_at=START)
    prefers = pool.task(region="asia", location_mode="prefer", queued_at=START)
    assert pool.place(strict, prefers) == 0
    pool.now[0] += 31
    assert pool.place() == 1
    assert pool.row(prefers).node_id == "near"
    assert pool.states(strict) == ["QUEUED"]
    assert "in another region" in pool.row(strict).reason


def test_a_task_that_asks_for_trust_does_not_run_on_strangers_machines(pool: Pool) -> None:
    pool.node("stranger", docker_status="none")
    task_id = pool.task(min_trust="high")
    assert pool.place(task_id) == 0
    assert pool.row(task_id).reason.endswith("looked at 1 nodes: 1 below the trust that it asks for")
    pool.node("trusted")
    assert pool.place() == 1
    assert pool.row(task_id).node_id == "trusted"


def test_two_dispatchers_fill_a_fleet_to_the_brim_and_nothing_more(pool: Pool) -> None:
    nodes = [pool.node(f"n{number:02}", max_tasks=4) for number in range(20)]
    ids = pool.tasks_of(pool.owner_id, 100)
    placement_loops = [pool.placement_loop, PlacementLoop(pool.dispatcher)]
    for placement_loop, some in zip(placement_loops, (ids[:70], ids[30:]), strict=True):
        placement_loop.hint(*some)
    together = threading.Barrier(2)

    def work(placement_loop: PlacementLoop) -> int:
        together.wait()
        return placement_loop.work()

    with ThreadPoolExecutor(2) as threads:
        placed = sum(threads.map(work, placement_loops))
    for placement_loop in placement_loops * 2:
        placement_loop.look_again()
        placed += placement_loop.work()
    assert placed == len(pool.running()) == len(set(pool.running())) == 80
    pool.check_nothing_is_over_allocated(nodes)


def test_nodes_that_fill_up_elsewhere_are_not_given_more(pool: Pool) -> None:
    nodes = [pool.node("n1", max_tasks=2), pool.node("n2", max_tasks=2)]
    other = PlacementLoop(pool.dispatcher)
    other.hint(*pool.tasks_of(pool.owner_id, 1))
    assert other.work() == 1
    pool.place(*pool.tasks_of(pool.owner_id, 3))
    other.hint(*pool.tasks_of(pool.owner_id, 3))
    assert other.work() == 0
    pool.check_nothing_is_over_allocated(nodes)


def test_what_was_under_way_when_redis_went_is_tried_again(pool: Pool, valkey: TestValkey) -> None:
    pool.node("n1")
    task_id = pool.task()
    pool.place()
    pool.placement_loop.hint(task_id)
    valkey.kill()
    with pytest.raises(UnavailableError):
        pool.placement_loop.work()
    valkey.restart()
    pool.dispatcher.lifecycle.sync_node("n1")
    pool.report("n1")
    assert pool.place() == 1


def test_a_running_desk_places_what_it_hears_of(pool: Pool) -> None:
    """With its threads: a hint, room that comes back, and a node that joins, each without a look around."""
    listener = NodeEventListener(pool.dispatcher.redis, pool.placement_loop)
    listener.start()
    pool.placement_loop.start()
    try:
        pool.node("n1", max_tasks=1)
        first, second, third = (pool.task() for _ in range(3))
        pool.placement_loop.hint(first, second, third)
        wait_until(lambda: len(pool.running()) == 1, "the node has a task")
        (running,) = pool.running()
        pool.end(running)
        wait_until(lambda: len(pool.running()) == 1, "the node has the next one")
        pool.node("n2", max_tasks=1)
        wait_until(lambda: len(pool.running()) == 2, "the node that joined has the last one")
    finally:
        pool.placement_loop.stop()
        listener.stop()
