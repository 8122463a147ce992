"""Allocations on a real Valkey and SQLite: what runs do not use goes to others, and comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatcher import context
from dispatcher.sweep.sweeper import Sweeper
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.sql import attempts as attempt_records, nodes as node_store, tasks as task_store
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.stores import add_user, assigned_ids, attempt_of
from tests.support.valkey import TestValkey

NODE = "n1"
MIB = 1 << 20
BIG = {"memory_gb": 6, "cpu_score": 1000}
SMALL = {"memory_gb": 3, "cpu_score": 1000}
RECLAIM_AFTER = 60.0


class Measured(Fleet):
    """A fleet whose nodes also say what their runs use: task id -> MiB, or (MiB, points)."""

    def say(
        self, uses: Mapping[str, Any], *, node_id: str = NODE, memory_percent: Any = 50, **also: Any
    ) -> None:
        running = []
        for name in assigned_ids(self.dispatcher.registry, node_id):
            use = uses.get(self.task_of(name))
            memory_mb, points = use if isinstance(use, tuple) else (use, 0)
            told = {} if use is None else {"memory_bytes": memory_mb * MIB, "cpu_score": points}
            running.append({"attempt_id": name, **told})
        body = {"v": 1, "cpu_percent": 1, "memory_percent": memory_percent, "running": running, **also}
        self.dispatcher.redis.set(keys.report(node_id), json.dumps(body), ex=keys.REPORT_TTL_SECONDS)

    def task_of(self, attempt_id: str) -> str:
        row = self.dispatcher.database.read(lambda c: attempt_records.task_of(c, attempt_id))
        return str(row.id) if row is not None else ""

    def measure(self, uses: Mapping[str, Any], *, after: float = 3.0, **how: Any) -> None:
        """The node reports, and a sweep sees it."""
        self.now[0] += after
        self.say(uses, **how)
        self.sweeper.sweep()
        self.place()

    def settle(self, uses: Mapping[str, Any], **how: Any) -> None:
        """As long as it takes until what is not used is taken back."""
        self.measure(uses, **how)
        self.measure(uses, after=RECLAIM_AFTER, **how)

    def kept(self, *task_ids: str, node_id: str = NODE) -> list[int | None]:
        """MiB that are kept for these tasks on the node."""
        listed = self.dispatcher.registry.allocations([node_id])[node_id]
        found = {self.task_of(name): claim.memory_mb for name, claim in listed.items()}
        return [found.get(task_id) for task_id in task_ids]

    def task(self, *, owner_id: int = 0, **columns: Any) -> str:
        own, self.owner_id = self.owner_id, owner_id or self.owner_id
        try:
            return super().task(**columns)
        finally:
            self.owner_id = own

    def owner(self, name: str, credit_score: int) -> int:
        return self.dispatcher.database.write(lambda c: add_user(c, name, credit_score=credit_score))

    def reasons(self, task_id: str) -> list[tuple[str, str]]:
        rows = self.dispatcher.database.read(lambda c: attempt_records.of_task(c, task_id))
        return [(row.state, row.reason) for row in rows]


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Measured]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path,
            "reclaim_after_seconds": RECLAIM_AFTER,
            "reclaim_margin": 0.25,
        }
    )
    now = [START]
    dispatcher = context.build(settings, clock=lambda: now[0], steady=lambda: now[0])
    fleet = Measured(dispatcher, now, dispatcher.database.write(add_user))
    fleet.node(NODE, total=Resources(cpu_score=4000, memory_gb=8), cpu_cores=4)
    yield fleet
    dispatcher.close()


def test_what_a_big_claim_does_not_use_lets_another_task_in(fleet: Measured) -> None:
    big, small = fleet.placed(**BIG), fleet.task(**SMALL)
    fleet.measure({big: (1000, 200)})
    assert fleet.states(big, small) == ["PLACED", "QUEUED"]
    fleet.measure({big: (1000, 200)}, after=RECLAIM_AFTER)
    assert fleet.states(big, small) == ["PLACED", "PLACED"]
    assert fleet.reserved(NODE) == Claim(250 + 1000, 1250 + 3072, 0, 0, tasks=2)


def test_what_the_task_asked_for_stays_in_sql_and_its_end_gives_back_what_was_kept(fleet: Measured) -> None:
    big = fleet.placed(**BIG)
    fleet.settle({big: 1000})
    (row,) = fleet.dispatcher.database.read(task_store.live_attempts)
    assert row.claim_memory_mb == 6144
    end = End(outcome=Outcome.REFUSED, exit_code=None, reason=told("no"))
    fleet.dispatcher.lifecycle.end_attempt(
        attempt_of(fleet.dispatcher.database, big), NODE, fleet.owner_id, end
    )
    assert fleet.reserved(NODE) == Claim(0, 0, 0, 0, tasks=0)


def test_a_run_gets_its_claim_back_as_its_use_grows(fleet: Measured) -> None:
    big = fleet.placed(**BIG)
    fleet.settle({big: 1000})
    assert fleet.kept(big) == [1250]
    fleet.measure({big: 1200})
    assert fleet.kept(big) == [1500]
    fleet.measure({big: 6000})
    assert fleet.kept(big) == [6144]


def grown_over(fleet: Measured, big: str, small: str) -> None:
    """`big` fills up the node, on which `small` was let in meanwhile."""
    fleet.settle({big: 1000})
    fleet.measure({big: 1000, small: 3000})
    fleet.measure({big: 5500, small: 3000})


def test_growth_without_room_evicts_the_youngest_and_counts_against_nobody(fleet: Measured) -> None:
    big, small = fleet.placed(**BIG), fleet.task(**SMALL)
    grown_over(fleet, big, small)
    assert fleet.states(big, small) == ["PLACED", "QUEUED"]
    assert fleet.kept(big, small) == [6144, None]
    assert fleet.reserved(NODE).memory_mb == 6144
    row = fleet.row(small)
    assert (row.attempts_ended, row.attempt_number) == (0, 1)
    assert fleet.reasons(small) == [("lost", f"evicted: node {NODE} ran short of memory")]
    node = fleet.dispatcher.database.read(lambda c: node_store.find(c, NODE))
    assert (node.history_bad, node.bad_streak) == (0, 0)


def test_the_evicted_task_goes_to_another_node_and_keeps_its_whole_claim_there(fleet: Measured) -> None:
    big, small = fleet.placed(**BIG), fleet.task(**SMALL)
    grown_over(fleet, big, small)
    fleet.node("n2")
    fleet.measure({big: 5500})
    assert fleet.row(small).node_id == "n2"
    for _ in range(2):
        fleet.say({big: 5500})
        fleet.measure({small: 100}, node_id="n2", after=RECLAIM_AFTER)
    assert fleet.kept(small, node_id="n2") == [3072]


def test_the_least_trusted_owner_goes_before_the_youngest(fleet: Measured) -> None:
    stranger = fleet.owner("stranger", 10)
    old = fleet.placed(memory_gb=2, owner_id=stranger)
    big = fleet.placed(memory_gb=4)
    fleet.settle({old: 1900, big: 500})
    young = fleet.placed(memory_gb=3)
    fleet.measure({old: 1900, big: 500, young: 3000})
    fleet.measure({old: 1900, big: 4000, young: 3000})
    assert fleet.reasons(old) == [("lost", f"evicted: node {NODE} ran short of memory")]
    assert fleet.row(young).node_id == NODE


def test_a_growing_run_goes_itself_when_the_others_are_trusted_more(fleet: Measured) -> None:
    stranger = fleet.owner("stranger", 10)
    big, small = fleet.placed(**BIG, owner_id=stranger), fleet.task(**SMALL)
    grown_over(fleet, big, small)
    assert fleet.reasons(big) == [("lost", f"evicted: node {NODE} ran short of memory")]
    assert fleet.row(small).node_id == NODE


def test_one_report_evicts_one_task_however_often_it_is_swept(fleet: Measured) -> None:
    big = fleet.placed(memory_gb=8, cpu_score=100)
    fleet.settle({big: 1000})
    others = [fleet.placed(memory_gb=1, cpu_score=100) for _ in range(6)]
    uses = dict.fromkeys(others, 1000)
    fleet.measure({big: 1000, **uses})
    fleet.measure({big: 8000, **uses})
    for _ in range(3):
        fleet.sweeper.sweep()
    assert (
        sum(bool(fleet.reasons(task_id)) and fleet.row(task_id).state == "QUEUED" for task_id in others) == 1
    )
    fleet.measure({big: 8000, **uses})
    assert [fleet.row(task_id).state for task_id in others].count("QUEUED") == 2


def test_measured_pressure_gives_claims_back_and_evicts_until_they_fit(fleet: Measured) -> None:
    big, small = fleet.placed(**BIG), fleet.task(**SMALL)
    fleet.settle({big: 1000})
    fleet.measure({big: 1000, small: 1000}, memory_percent=94)
    assert fleet.states(big, small) == ["PLACED", "PLACED"]
    fleet.measure({big: 1000, small: 1000}, memory_percent=96)
    assert fleet.states(big, small) == ["PLACED", "QUEUED"]
    assert fleet.kept(big) == [6144]
    # Not taken back at once, or the same would happen again.
    fleet.measure({big: 1000}, after=RECLAIM_AFTER - 1)
    assert fleet.kept(big) == [6144]
    fleet.measure({big: 1000}, after=RECLAIM_AFTER)
    assert fleet.states(small) == ["PLACED"]


def test_pressure_evicts_nobody_while_nothing_was_reclaimed(fleet: Measured) -> None:
    ids = [fleet.placed(memory_gb=4) for _ in range(2)]
    for _ in range(3):
        fleet.measure(dict.fromkeys(ids, 4000), memory_percent=100)
    assert fleet.states(*ids) == ["PLACED", "PLACED"]


def test_a_node_that_says_everything_is_used_ends_only_what_it_has_itself(fleet: Measured) -> None:
    fleet.node("n2")
    at_home = fleet.placed(**BIG, pinned_node=NODE)
    away = fleet.placed(**BIG, pinned_node="n2")
    fleet.say({away: 1000}, node_id="n2")
    fleet.settle({at_home: 1000})
    small = fleet.placed(**SMALL, pinned_node=NODE)
    fleet.say({away: 1000}, node_id="n2")
    fleet.measure({at_home: 1000, small: 1000})
    lies = [
        {"attempt_id": attempt_of(fleet.dispatcher.database, name), "memory_bytes": 1e300, "cpu_score": 1e300}
        for name in (at_home, small, away)
    ]
    for _ in range(4):
        fleet.say({away: 1000}, node_id="n2")
        fleet.measure({}, memory_percent=100, running=lies)
    assert fleet.states(at_home, small, away) == ["PLACED", "QUEUED", "PLACED"]
    assert fleet.kept(away, node_id="n2")[0] in {1250, 6144}
    assert fleet.reserved(NODE).memory_mb <= 8192


def test_a_node_that_says_nothing_is_used_keeps_its_runs_their_claims(fleet: Measured) -> None:
    big = fleet.placed(**BIG)
    fleet.settle({big: 0})
    fleet.settle({})
    assert fleet.kept(big) == [6144]


def test_a_new_sweeper_takes_nothing_before_it_has_watched(fleet: Measured) -> None:
    big = fleet.placed(**BIG)
    fleet.measure({big: 1000}, after=RECLAIM_AFTER)
    fleet.sweeper = Sweeper(fleet.dispatcher, fleet.placement_loop)
    fleet.measure({big: 1000}, after=RECLAIM_AFTER)
    assert fleet.kept(big) == [6144]
    fleet.measure({big: 1000}, after=RECLAIM_AFTER)
    assert fleet.kept(big) == [1250]


def test_a_flush_while_allocations_are_reclaimed_reserves_no_more_than_there_is(fleet: Measured) -> None:
    big, small = fleet.placed(**BIG), fleet.task(**SMALL)
    fleet.settle({big: 1000})
    fleet.measure({big: 1000, small: 3000})
    assert fleet.states(big, small) == ["PLACED", "PLACED"]
    fleet.dispatcher.redis.flushall()
    fleet.sweep(after=1)
    assert fleet.reserved(NODE).memory_mb <= 8192
    fleet.measure({big: 1000, small: 3000})
    assert fleet.states(big, small) == ["PLACED", "PLACED"]
    assert fleet.kept(big, small) == [1250, 3072]


def test_a_shortage_of_cpu_is_shared_and_evicts_nobody(fleet: Measured) -> None:
    first = fleet.placed(cpu_score=6000, memory_gb=1)
    fleet.settle({first: (500, 100)})
    second = fleet.placed(cpu_score=3000, memory_gb=1)
    fleet.measure({first: (500, 6000), second: (500, 3000)})
    listed = fleet.dispatcher.registry.allocations([NODE])[NODE]
    assert {name: claim.cpu_score for name, claim in listed.items()} == {
        attempt_of(fleet.dispatcher.database, first): 4000,
        attempt_of(fleet.dispatcher.database, second): 2000,
    }
    assert fleet.states(first, second) == ["PLACED", "PLACED"]


def test_reclaiming_can_be_turned_off(fleet: Measured) -> None:
    big = fleet.placed(**BIG)
    settings = fleet.dispatcher.settings.model_copy(update={"reclaim_after_seconds": 0.0})
    object.__setattr__(fleet.dispatcher, "settings", settings)
    fleet.settle({big: 1000})
    assert fleet.kept(big) == [6144]
