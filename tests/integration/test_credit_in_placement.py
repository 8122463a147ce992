"""Credit on its way to placement, on a real Valkey and SQLite: tiers at once, and limits on what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.placing.node_events import NodeEventListener
from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust.access_limits import LIMITS
from nodepool.domain.trust.credit import DRIFT_SECONDS
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql import credit as credit_store, tasks as task_store
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.stores import add_task, add_user, attempt_of
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

LIMIT = LIMITS[Tier.LOW].running_tasks


class Pool(Fleet):
    """One user's nodes, and tasks of others."""

    def user(self, name: str, score: int) -> int:
        return self.dispatcher.database.write(lambda c: add_user(c, name, credit_score=score))

    def tasks_of(self, user_id: int, count: int, tier: Tier, **columns: Any) -> list[str]:
        now = self.now[0]
        values = {"created_at": now, "queued_at": now, "updated_at": now, "hinted_at": now, **columns}
        return self.dispatcher.database.write(
            lambda c: [add_task(c, user_id, tier=tier, **values) for _ in range(count)]
        )

    def set_score(self, user_id: int, score: int, *, tell: bool = True) -> None:
        self.now[0] += 1
        start, now = self.dispatcher.settings.newcomer_credit_score, self.now[0]
        changed = self.dispatcher.database.write(
            lambda c: credit_store.set_score(c, user_id, score, act=f"{now}", reason="", start=start, now=now)
        )
        for owner_id in changed if tell else ():
            self.dispatcher.lifecycle.sync_nodes_of(owner_id)

    def end(self, task_id: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
        row = self.row(task_id)
        database = self.dispatcher.database
        attempt = attempt_of(database, task_id)
        database.write(
            lambda c: task_store.claim_attempt(c, attempt, row.node_id, self.owner_id, self.now[0])
        )
        end = End(outcome=outcome, exit_code=0, reason=told("it ended"))
        self.dispatcher.lifecycle.end_attempt(attempt, row.node_id, self.owner_id, end)

    def running(self) -> list[str]:
        rows = self.dispatcher.database.read(task_store.live_attempts)
        return [row.task_id for row in rows]

    def tier_of(self, node_id: str) -> Tier:
        return {view.node_id: view.tier for view in self.dispatcher.registry.snapshot(15)}[node_id]


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Pool]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        owner_id = dispatcher.database.write(lambda c: add_user(c, credit_score=50))
        yield Pool(dispatcher, now, owner_id)


def test_a_loss_takes_the_owners_nodes_to_a_lower_tier_at_once(pool: Pool) -> None:
    pool.node("n1")
    pool.node("n2")
    user = pool.user("user", 50)
    (task_id,) = pool.tasks_of(user, 1, Tier.NORMAL, min_trust="normal")
    (strict,) = pool.tasks_of(user, 1, Tier.NORMAL, min_trust="normal")
    assert pool.place(task_id) == 1
    assert pool.tier_of("n1") is pool.tier_of("n2") is Tier.NORMAL
    pool.end(task_id, Outcome.LOST)
    assert pool.tier_of("n1") is pool.tier_of("n2") is Tier.LOW
    assert pool.place(strict) == 0


def test_waiting_tasks_follow_their_owners_score_without_a_look_at_the_whole_line(pool: Pool) -> None:
    pool.set_score(pool.owner_id, 100)
    pool.node("trusted", max_tasks=1)
    user = pool.user("user", 100)
    both = pool.tasks_of(user, 2, Tier.HIGH)
    assert pool.place(*both) == 1
    first, second = sorted(both, key=lambda task_id: pool.row(task_id).state)
    assert pool.row(second).state == "QUEUED"
    listener = NodeEventListener(pool.dispatcher.redis, pool.placement_loop)
    listener.start()
    try:
        redis = pool.dispatcher.redis
        wait_until(lambda: redis.pubsub_numsub("owner-events")[0][1] == 1, "the listener listens")
        pool.placement_loop.work()
        pool.set_score(user, 10)
        assert pool.row(second).tier == "low"
        wait_until(
            lambda: (
                pool.placement_loop.work() >= 0 and _tier_in_queue(pool.placement_loop, second) is Tier.LOW
            ),
            "it is low",
        )
        pool.end(first)
        # Nothing but a trusted node is there, and the task may not have it any more.
        pool.place()
        assert pool.row(second).state == "QUEUED"
    finally:
        listener.stop()


def _tier_in_queue(placement_loop: PlacementLoop, task_id: str) -> Tier | None:
    task = placement_loop.planner.queue.find(task_id)
    return task.requirements.tier if task else None


def test_a_change_that_nobody_heard_of_is_made_up_by_the_sweep(pool: Pool) -> None:
    pool.node("n1")
    user = pool.user("user", 100)
    (task_id,) = pool.tasks_of(user, 1, Tier.HIGH, memory_gb=1000)
    pool.place(task_id)
    pool.set_score(user, 10, tell=False)
    pool.set_score(pool.owner_id, 10, tell=False)
    pool.sweep(after=61, heard=("n1",))
    assert pool.row(task_id).tier == "low"
    assert pool.tier_of("n1") is Tier.LOW


def test_scores_drift_with_the_sweep_and_the_tiers_with_them(pool: Pool) -> None:
    pool.set_score(pool.owner_id, 49)
    pool.node("n1")
    assert pool.tier_of("n1") is Tier.LOW
    pool.sweep(after=DRIFT_SECONDS + 1, heard=("n1",))
    assert pool.tier_of("n1") is Tier.NORMAL


def test_a_user_of_low_credit_has_no_more_running_than_allowed(pool: Pool) -> None:
    pool.node("n1", max_tasks=50)
    low, other = pool.user("low", 31), pool.user("other", 50)
    mine = pool.tasks_of(low, LIMIT + 3, Tier.LOW)
    pool.set_score(pool.owner_id, 10)
    assert pool.place(*mine) == LIMIT
    waiting = [task_id for task_id in mine if pool.row(task_id).state == "QUEUED"]
    assert len(waiting) == 3
    assert {pool.row(task_id).reason for task_id in waiting} == {
        f"its owner has {LIMIT} tasks running, as many as a credit score below 50 allows"
    }
    # Others are not held up.
    theirs = pool.tasks_of(other, 10, Tier.NORMAL)
    assert pool.place(*theirs) == 10
    # When one has ended, one more comes.
    pool.end(next(task_id for task_id in mine if task_id not in waiting))

    def one_more() -> bool:
        pool.place()
        return [pool.row(task_id).state for task_id in mine].count("QUEUED") == 2

    wait_until(one_more, "one more is placed")
    assert len([task_id for task_id in pool.running() if task_id in mine]) == LIMIT


def test_another_dispatcher_counts_what_runs_already(pool: Pool) -> None:
    pool.node("n1", max_tasks=50)
    low = pool.user("low", 31)
    pool.set_score(pool.owner_id, 10)
    assert pool.place(*pool.tasks_of(low, LIMIT, Tier.LOW)) == LIMIT
    another = PlacementLoop(pool.dispatcher)
    another.hint(*pool.tasks_of(low, 2, Tier.LOW))
    assert another.work() == 0


def test_a_better_score_lets_the_rest_run(pool: Pool) -> None:
    pool.node("n1", max_tasks=50)
    low = pool.user("low", 31)
    pool.set_score(pool.owner_id, 10)
    mine = pool.tasks_of(low, LIMIT + 3, Tier.LOW)
    assert pool.place(*mine) == LIMIT
    pool.set_score(low, 60)
    pool.placement_loop.owner_changed(low)

    def all_run() -> bool:
        pool.place()
        return len(pool.running()) == len(mine)

    wait_until(all_run, "all of them run")
