"""Arrays in the placement loop and the sweep: a window of each, told again, stopped, ended, and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from dispatcher.placing.job_windows import WINDOW
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.tasks.arrays import ArrayInputs, expand, item_line
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.run_inputs import RunInputs
from nodepool.domain.tasks.states import JobKind, Outcome, TaskState
from nodepool.messaging.names import partition_queue
from nodepool.stores.redis.emptying import empty
from nodepool.stores.sql import job_intake, jobs as job_store, tasks as task_store
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import jobs, tasks
from tests.support.dispatchers import open_dispatcher
from tests.support.fleet import START, Fleet
from tests.support.money import PRICE, add_payer
from tests.support.stores import attempt_of
from tests.support.valkey import TestValkey


class Pool(Fleet):
    def payer(self, name: str, grant: int = 10**6) -> int:
        return self.dispatcher.database.write(lambda c: add_payer(c, name, grant=grant))

    def array(
        self, owner_id: int, count: int, job_id: str = "job", *, accepted: bool = True, **columns: Any
    ) -> str:
        """As a gateway puts it in."""
        database, now = self.dispatcher.database, self.now[0]
        job = {
            "id": job_id, "owner_id": owner_id, "kind": JobKind.ARRAY, "count": count, "digest": "",
            "holder": "h",
        }  # fmt: skip
        row = {
            "owner_id": owner_id, "state": TaskState.QUEUED, "cpu_score": 100, "memory_gb": 0, "gpu_score": 0,
            "gpu_memory_gb": 0, "gpu_name": "", "region": "any", "tier": "high", "image": "image",
            "network": False, "max_minutes": 10, "price_per_minute": PRICE, "package_sha256": "0" * 64,
            "package_bytes": 1, "labels": "", "holds_when_placed": True, "created_at": now, "updated_at": now,
            "hinted_at": now, "queued_at": now, **columns,
        }  # fmt: skip
        items = "".join(item_line(index) for index in range(count)).encode()
        pieces = expand(items, ArrayInputs.of((), RunInputs()))
        database.write(lambda c: job_intake.begin(c, job, now))
        for piece in pieces:
            database.write(lambda c: job_intake.put_in(c, job_id, "h", row, piece, now))  # noqa: B023
        if accepted:
            database.write(lambda c: job_intake.accept(c, job_id, "h", now))
        return job_id

    def end(self, task_id: str, outcome: Outcome = Outcome.SUCCEEDED) -> None:
        row, now = self.row(task_id), self.now[0]
        attempt, database = attempt_of(self.dispatcher.database, task_id), self.dispatcher.database
        if outcome is Outcome.SUCCEEDED:
            database.write(lambda c: task_store.claim_attempt(c, attempt, row.node_id, self.owner_id, now))
        end = End(outcome=outcome, exit_code=0, reason=told(""))
        self.dispatcher.lifecycle.end_attempt(attempt, row.node_id, self.owner_id, end)

    def counts(self, job_id: str = "job") -> dict[str, int]:
        return self.dispatcher.database.read(lambda c: job_store.counts(c, [job_id])).get(job_id, {})

    def on_nodes(self) -> list[str]:
        return sorted(row.task_id for row in self.dispatcher.database.read(task_store.live_attempts))


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Pool]:
    now = [START]
    with open_dispatcher(valkey, tmp_path, now) as dispatcher:
        yield Pool(dispatcher, now, dispatcher.database.write(lambda c: add_payer(c, "lender", grant=0)))


def test_one_hint_is_enough_for_all_and_only_a_window_waits_in_memory(pool: Pool) -> None:
    node = pool.node("n1", max_tasks=10)
    owner = pool.payer("owner")
    pool.array(owner, 3 * WINDOW)
    assert pool.place("job.0") == 10
    assert pool.on_nodes() == [f"job.{index}" for index in range(10)]
    assert len(pool.placement_loop.planner.queue) <= WINDOW
    for task_id in pool.on_nodes():
        pool.end(task_id)
    pool.report(node)
    assert pool.place() == 10
    assert pool.counts() == {"SUCCEEDED": 10, "PLACED": 10, "QUEUED": 3 * WINDOW - 20}
    assert pool.dispatcher.database.read(lambda c: job_store.money(c, "job")).paid == 10 * PRICE


def test_the_window_moves_on_until_all_have_run(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WINDOW", 20), ("_LOW", 10)):
        monkeypatch.setattr(f"dispatcher.placing.job_windows.{name}", value)
    pool.node("n1", max_tasks=40)
    pool.array(pool.payer("owner"), 100)
    pool.place("job.0")
    rounds = 0
    while pool.counts().get("QUEUED"):
        rounds += 1
        assert rounds < 20
        for task_id in pool.on_nodes():
            pool.end(task_id)
        pool.report("n1")
        pool.place()
    assert len(pool.placement_loop.planner.queue) == 0
    assert pool.placement_loop._windows._jobs == {}


def test_somebody_elses_task_is_next_however_large_the_array(pool: Pool) -> None:
    pool.node("n1", max_tasks=2)
    pool.array(pool.payer("large"), 2 * WINDOW)
    pool.place("job.0")
    mine = pool.task()
    pool.end(pool.on_nodes()[0])
    pool.report("n1")
    assert pool.place(mine) == 1
    assert mine in pool.on_nodes()


def test_what_is_lost_of_a_job_is_placed_again_though_its_hint_is_lost(pool: Pool) -> None:
    pool.node("n1", max_tasks=3)
    pool.array(pool.payer("owner"), 5)
    assert pool.place("job.0") == 3
    pool.end("job.1", Outcome.LOST)
    empty(pool.dispatcher.redis)
    pool.dispatcher.lifecycle.sync_node("n1")
    pool.sweep(after=1.0, heard=("n1",))
    pool.sweep(after=1.0, heard=("n1",))
    live = pool.on_nodes()
    assert len(live) == 3
    assert "job.0" in live


def test_the_sweep_tells_of_a_job_and_not_of_each_task(pool: Pool) -> None:
    pool.node("n1", max_tasks=1, region="asia")
    pool.array(pool.payer("owner"), 2000, cpu_score=10**6)
    pool.dispatcher.database.write(lambda c: c.execute(update(jobs).values(hinted_at=0.0)))
    pool.sweep(after=1.0, heard=("n1",))
    assert pool.hints(partition_queue("high", "any")) <= 1
    assert pool.placement_loop.is_known("job.0")
    assert pool.row("job.0").reason.startswith("no node of the pool can ever run this")


def test_a_job_without_money_waits_with_that_reason_and_goes_on(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_READ_SECONDS", "_READ_AGAIN_SECONDS"):
        monkeypatch.setattr(f"dispatcher.placing.spending_limits.{name}", 0.0)
    pool.node("n1", max_tasks=50)
    poor = pool.payer("poor", grant=2 * 10 * PRICE)
    pool.array(poor, 12)
    assert pool.place("job.0") == 2
    assert "waiting for CPT: 30 are set aside" in pool.row("job.5").reason
    mine = pool.task()
    assert pool.place(mine) == 1
    for task_id in ("job.0", "job.1"):
        pool.end(task_id)
    pool.report("n1")
    # Each cost one started minute.
    assert pool.place() == 1
    mint = NewEntry("mint:1", EntryKind.GRANT, ledger.MINT, ledger.user_account(poor), 1000)
    pool.dispatcher.database.write(lambda c: ledger_store.move(c, [mint], START))
    assert pool.place() == 9
    assert pool.counts() == {"SUCCEEDED": 2, "PLACED": 10}


def test_the_sweep_notes_the_end_and_goes_on_with_a_stop(pool: Pool) -> None:
    pool.node("n1", max_tasks=2)
    pool.array(pool.payer("owner"), 600)
    pool.place("job.0")
    # A gateway that ended after it had taken the wish down.
    pool.dispatcher.database.write(lambda c: job_store.request_stop(c, "job"))
    pool.sweep(after=1.0, heard=("n1",))
    assert pool.counts() == {"STOPPED": 598, "PLACED": 2}
    assert all(pool.row(task_id).stop_requested for task_id in pool.on_nodes())
    for task_id in pool.on_nodes():
        pool.end(task_id, Outcome.STOPPED)
    pool.sweep(after=1.0, heard=("n1",))
    row = pool.dispatcher.database.read(lambda c: job_intake.find_any(c, "job"))
    assert row is not None
    assert row.ended_at is not None


def test_what_nobody_accepts_is_placed_by_nobody_and_dropped_after_a_while(pool: Pool) -> None:
    pool.node("n1", max_tasks=5)
    owner = pool.payer("owner")
    pool.array(owner, 700, accepted=False)
    pool.sweep(after=1.0, heard=("n1",))
    assert pool.on_nodes() == []
    assert pool.counts() == {"QUEUED": 700}
    pool.sweep(after=60.0, heard=("n1",))
    assert (
        pool.dispatcher.database.read(lambda c: c.execute(select(func.count()).select_from(tasks)).scalar())
        == 0
    )
    assert pool.dispatcher.database.read(lambda c: job_intake.find_any(c, "job")) is None
