"""Runs that an agent does not end when it must, on a real Valkey and SQLite: the pool ends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import select

from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.sweeper import Sweeper
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.states import TaskState
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.stores.redis import keys
from nodepool.stores.sql import verification_records
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import users
from tests.support.money import PRICE, add_payer, check_sums, hold_of, spendable
from tests.support.pushed import PushedFleet
from tests.support.stores import assigned_ids
from tests.support.tasks import unpacked
from tests.support.valkey import TestValkey

MINUTE = 60.0
GRANT = 1000


class Fleet(PushedFleet):
    """One agent that reports all that it was given, and never ends anything."""

    sweeper: Sweeper
    gateway_serves = True
    provider_id = 0
    uses: ClassVar[dict[str, int]] = {}

    def run(self, *, max_minutes: int, says: bytes = b"half of it\n", user_id: int = 0) -> str:
        provider_id, self.owner_id = self.owner_id, user_id or self.owner_id
        attempt = self.assigned("n1", max_minutes=max_minutes, price_per_minute=PRICE)
        self.owner_id = provider_id
        task = asdict(self.task(attempt))
        self.dispatcher.database.write(lambda c: ledger_store.hold(c, task, fee_percent=0, now=self.now))
        self.claimed(attempt, "n1")
        if says:
            self.dispatcher.lifecycle.outputs.append(attempt, 0, says)
        return attempt

    def user(self) -> int:
        return self.dispatcher.database.write(lambda c: add_payer(c, "user", grant=GRANT))

    def score(self) -> int:
        query = select(users.c.credit_score).where(users.c.id == self.owner_id)
        return int(self.dispatcher.database.read(lambda c: c.execute(query).scalar_one()))

    def pass_time(self, minutes: float) -> None:
        """The sweep looks every few seconds, and so often enough to see each of these moments."""
        end = self.now + minutes * MINUTE
        while self.now < end:
            self.now = min(end, self.now + 10.0)
            names = assigned_ids(self.dispatcher.registry, "n1")
            running = [{"attempt_id": name, **self.uses} for name in names]
            report = {"v": 1, "cpu_percent": 1, "memory_percent": 1, "running": running}
            self.redis.set(keys.report("n1"), json.dumps(report), ex=keys.REPORT_TTL_SECONDS)
            if self.gateway_serves:
                self.dispatcher.liveness.say_gateway_serves()
            else:
                self.redis.delete(keys.GATEWAY)
            self.sweeper.sweep()

    def money(self) -> tuple[int, int]:
        self.dispatcher.database.read(check_sums)
        return self.dispatcher.database.read(
            lambda c: (spendable(c, self.owner_id), spendable(c, self.provider_id))
        )


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(valkey, tmp_path)
    database = fleet.dispatcher.database
    database.write(lambda c: ledger_store.open_account(c, fleet.owner_id, grant=GRANT, now=0.0))
    fleet.provider_id = fleet.owner_id
    fleet.node("n1", kind=NodeKind.AGENT, max_tasks=4)
    fleet.sweeper = Sweeper(fleet.dispatcher, PlacementLoop(fleet.dispatcher))
    yield fleet
    fleet.close()


def test_a_run_that_its_node_never_ends_ends_at_its_bound_with_what_it_said(fleet: Fleet) -> None:
    attempt = fleet.run(max_minutes=2)
    fleet.pass_time(2 + 4.5)
    assert fleet.task(attempt).state == TaskState.RUNNING
    fleet.pass_time(1)
    task = fleet.task(attempt)
    assert (task.state, task.attempts_ended) == (TaskState.FAILED, 0)
    assert "longest run, 2 minutes" in task.reason
    result = unpacked(fleet.files.result_bytes(task.result_attempt))
    assert result["task_logs.txt"] == b"half of it\n"
    assert "task_stopped.txt" not in result


def test_it_is_paid_up_to_its_bound_and_not_for_the_time_that_it_was_not_ended(fleet: Fleet) -> None:
    attempt = fleet.run(max_minutes=2)
    fleet.pass_time(8)
    held = fleet.dispatcher.database.read(lambda c: hold_of(c, attempt.partition(":")[0]))
    assert (held.state, held.posted) == ("posted", 2 * PRICE)
    assert fleet.money()[0] == GRANT  # its owner has the node, and paid their own account


def test_a_stop_that_its_node_does_not_heed_ends_the_run_all_the_same(fleet: Fleet) -> None:
    attempt = fleet.run(max_minutes=60)
    fleet.pass_time(1.5)
    fleet.stop(attempt)
    fleet.pass_time(4.5)
    assert fleet.task(attempt).state == TaskState.RUNNING
    fleet.pass_time(1)
    task = fleet.task(attempt)
    assert task.state == TaskState.STOPPED
    held = fleet.dispatcher.database.read(lambda c: hold_of(c, task.id))
    assert held.posted == 7 * PRICE
    assert "task_stopped.txt" in unpacked(fleet.files.result_bytes(task.result_attempt))


def test_a_node_that_cannot_reach_a_gateway_gets_its_time_when_one_is_back(fleet: Fleet) -> None:
    attempt = fleet.run(max_minutes=2)
    fleet.gateway_serves = False
    fleet.pass_time(20)
    assert fleet.task(attempt).state == TaskState.RUNNING
    fleet.gateway_serves = True
    fleet.pass_time(4.5)
    assert fleet.task(attempt).state == TaskState.RUNNING
    fleet.pass_time(1)
    assert fleet.task(attempt).state == TaskState.FAILED


def test_who_claims_a_run_and_idles_is_not_paid_and_has_lied(fleet: Fleet) -> None:
    """Before, it was paid in full for doing nothing."""
    user_id, before = fleet.user(), fleet.score()
    attempt = fleet.run(max_minutes=8, says=b"", user_id=user_id)
    fleet.uses = {"cpu_score": 0, "memory_bytes": 1 << 20}
    fleet.pass_time(8 + 5.5)
    task = fleet.task(attempt)
    assert (task.state, task.attempts_ended) == (TaskState.QUEUED, 1)
    assert "took it and did nothing for 8 minutes" in task.reason
    assert fleet.score() == before + MOVES[Cause.IDLE].delta == before + MOVES[Cause.DIFFERED].delta
    database = fleet.dispatcher.database
    database.read(check_sums)
    assert database.read(lambda c: spendable(c, fleet.owner_id)) == GRANT  # not a CPT more
    assert database.read(lambda c: verification_records.of_owner(c, fleet.owner_id)).strikes == 1


def test_who_idles_until_a_stop_and_after_it_is_not_paid_either(fleet: Fleet) -> None:
    user_id, before = fleet.user(), fleet.score()
    attempt = fleet.run(max_minutes=60, says=b"", user_id=user_id)
    fleet.pass_time(5)
    fleet.stop(attempt)
    fleet.pass_time(5.5)
    assert fleet.task(attempt).state == TaskState.STOPPED
    assert fleet.dispatcher.database.read(lambda c: spendable(c, user_id)) == GRANT
    assert fleet.score() == before + MOVES[Cause.IDLE].delta


@pytest.mark.parametrize("sign", ["output", "cpu"])
def test_a_run_that_shows_work_is_paid_and_was_only_late(fleet: Fleet, sign: str) -> None:
    user_id, before = fleet.user(), fleet.score()
    attempt = fleet.run(max_minutes=2, says=b"x" if sign == "output" else b"", user_id=user_id)
    fleet.uses = {"cpu_score": 500 if sign == "cpu" else 0, "memory_bytes": 1 << 20}
    fleet.pass_time(2 + 5.5)
    assert fleet.task(attempt).state == TaskState.FAILED
    assert fleet.dispatcher.database.read(lambda c: spendable(c, user_id)) == GRANT - 2 * PRICE
    assert fleet.score() == before + MOVES[Cause.LATE].delta
