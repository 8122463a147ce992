"""Runs of one task in the dispatcher, on a real Valkey and SQLite: owners apart, drawn by chance, swept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update

from dispatcher import context
from dispatcher.placing import checker_choice
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.domain.trust.audits import MOST_BLOCK_SECONDS
from nodepool.domain.trust.replication import PATIENCE_SECONDS
from nodepool.domain.trust.tiers import Tier
from nodepool.domain.trust.voting import Checker
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.sql import (
    placements as placing,
    provisional_results,
    replicas as replica_store,
    tasks as task_store,
)
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import node_records, nodes, tasks
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.money import add_held_task
from tests.support.stores import add_node, add_user, attempt_of
from tests.support.valkey import TestValkey


class Runs(Fleet):
    """With a node for each of several owners, none of whom submits."""

    owners: dict[str, int]

    def owned(self, name: str, **facts: Any) -> str:
        """A node of an owner of its own."""
        now, database = self.now[0], self.dispatcher.database

        def work(connection: Connection) -> int:
            owner = add_user(connection, f"owner-of-{name}")
            ledger_store.open_account(connection, owner, now=now)
            add_node(connection, owner, name, now=now, **facts)
            return owner

        self.owners = {**getattr(self, "owners", {}), name: database.write(work)}
        self.dispatcher.lifecycle.sync_node(name)
        self.report(name)
        return name

    def submit(self, task_id: str, replicas: int) -> str:
        now = self.now[0]

        def work(connection: Connection) -> None:
            times = {"created_at": now, "updated_at": now, "hinted_at": now, "queued_at": now}
            word = "pending" if replicas > 1 else ""
            add_held_task(connection, self.owner_id, task_id, replicas=replicas, verification=word, **times)
            if replicas > 1:
                replica_store.add_runs_of(connection, task_id, range(1, replicas + 1), now)

        self.dispatcher.database.write(work)
        return task_id

    def runs(self, task_id: str) -> dict[str, str]:
        rows = self.dispatcher.database.read(lambda c: replica_store.runs_of(c, task_id))
        return {row.id: row.node_id for row in rows}

    def end(self, task_id: str, digest: str, *, after: float = 10.0) -> None:
        row = self.row(task_id)
        attempt, node_id = attempt_of(self.dispatcher.database, task_id), row.node_id
        owner, database = self.owners[node_id], self.dispatcher.database
        database.write(lambda c: task_store.claim_attempt(c, attempt, node_id, owner, self.now[0]))
        self.now[0] += after
        for name in self.owners:
            self.report(name)
        end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""), digest=digest)
        self.dispatcher.lifecycle.end_attempt(attempt, node_id, owner, end)


@pytest.fixture
def runs(valkey: TestValkey, tmp_path: Path) -> Iterator[Runs]:
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
    owner_id = dispatcher.database.write(add_user)
    dispatcher.database.write(lambda c: ledger_store.open_account(c, owner_id, grant=10_000, now=START))
    yield Runs(dispatcher, now, owner_id)
    dispatcher.close()


def test_runs_go_to_different_owners_however_good_one_of_them_looks(runs: Runs) -> None:
    runs.node("own")
    for name in ("a", "b", "c", "d"):
        runs.owned(name)
    runs.submit("t", 3)
    assert runs.place("t~1", "t~2", "t~3") == 3
    assert len(set(runs.runs("t").values())) == 3
    assert "own" not in runs.runs("t").values()


def test_a_second_node_of_an_owner_is_of_no_use_to_him(runs: Runs) -> None:
    runs.owned("a")
    database = runs.dispatcher.database
    database.write(lambda c: add_node(c, runs.owners["a"], "a2", now=START))
    runs.dispatcher.lifecycle.sync_node("a2")
    runs.report("a2")
    runs.submit("t", 2)
    assert runs.place("t~1", "t~2") == 1
    assert runs.place("t~1", "t~2") == 0
    (waits,) = [run for run, node in runs.runs("t").items() if not node]
    assert runs.row(waits).reason.endswith(
        "looked at 2 nodes: 2 of an owner who has another run of it, or who submitted it"
    )
    runs.owned("b")
    assert runs.place(waits) == 1


def test_a_run_is_drawn_and_not_given_to_the_best(runs: Runs) -> None:
    for number in range(8):
        runs.owned(f"n{number}")
    chosen = set()
    for number in range(12):
        runs.submit(f"t{number}", 2)
        assert runs.place(f"t{number}~1", f"t{number}~2") == 2
        chosen |= set(runs.runs(f"t{number}").values())
    assert len(chosen) > 4


def test_trusted_nodes_are_drawn_before_unknown_ones(runs: Runs) -> None:
    for number in range(6):
        runs.owned(f"n{number}", docker_status="none")
    for name in ("n4", "n5"):
        runs.dispatcher.database.write(
            lambda c, name=name: c.execute(insert(node_records).values(node_id=name, verified=60))  # type: ignore[misc]
        )
    runs.submit("t", 2)
    assert runs.place("t~1", "t~2") == 2
    assert set(runs.runs("t").values()) == {"n4", "n5"}


def test_of_several_runs_that_are_planned_with_one_owner_all_find_another(runs: Runs) -> None:
    """All of them see the same picture, in which nothing keeps them apart yet."""
    for number in range(5):
        runs.owned(f"n{number}")
    for number in range(10):
        runs.submit(f"t{number}", 5)
    everyone = [f"t{number}~{run}" for number in range(10) for run in range(1, 6)]
    placed = 0
    for _look in range(20):
        # As after half a minute: runs that were drawn for a node that filled up meanwhile are drawn anew.
        runs.placement_loop._check_queue_at = float("-inf")
        placed += runs.place(*everyone)
    assert placed == 40  # eight task slots each
    for number in range(10):
        nodes = [node for node in runs.runs(f"t{number}").values() if node]
        assert len(nodes) == len(set(nodes))


def test_the_sweep_does_what_time_brings(runs: Runs) -> None:
    for name in ("a", "b"):
        runs.owned(name)
    runs.submit("t", 3)
    assert runs.place("t~1", "t~2", "t~3") == 2
    ran = [run for run, node in runs.runs("t").items() if node]
    for run in ran:
        runs.end(run, "same")
    assert runs.row("t").state == "RUNNING"
    runs.sweep(after=PATIENCE_SECONDS, heard=("a", "b"))
    row = runs.row("t")
    assert (row.state, row.verification) == ("SUCCEEDED", "agreed")


def test_a_block_that_is_old_is_checked_and_its_check_is_placed(runs: Runs) -> None:
    runs.owned("low", docker_status="none")
    runs.dispatcher.database.write(
        lambda c: c.execute(insert(node_records).values(node_id="low", verified=60))
    )
    runs.submit("t", 1)
    assert runs.place("t") == 1
    runs.owned("other")
    runs.end("t", "")
    assert runs.runs("t") == {}
    runs.sweep(after=MOST_BLOCK_SECONDS + 1, heard=("low", "other"))
    assert runs.runs("t") == {"t~1": "other"}
    runs.dispatcher.database.write(
        lambda c: c.execute(update(tasks).where(tasks.c.id == "t").values(result_digest="same"))
    )
    runs.end("t~1", "same")
    assert runs.row("t").verification == "audited"
    assert runs.dispatcher.database.read(lambda c: provisional_results.under_check(c, 10)) == []


def test_a_check_counts_among_nobodys_running_tasks(runs: Runs) -> None:
    runs.owned("low", docker_status="none")
    runs.submit("t", 1)
    runs.place("t")
    runs.owned("other")
    runs.end("t", "")
    assert runs.place("t~1") == 1
    counts = runs.dispatcher.database.read(lambda c: placing.running_of(c, [runs.owner_id]))
    assert counts.get(runs.owner_id, 0) == 0


def test_a_paused_node_gets_nothing_until_its_pause_is_over(runs: Runs) -> None:
    runs.owned("low", docker_status="none")
    until = START + 100
    runs.dispatcher.database.write(
        lambda c: c.execute(insert(node_records).values(node_id="low", paused_until=until))
    )
    runs.dispatcher.lifecycle.sync_node("low")
    runs.submit("t", 1)
    assert runs.place("t") == 0
    runs.now[0] = until + 1
    runs.sweep(heard=("low",))
    assert runs.row("t").node_id == "low"


def test_facts_of_an_older_pool_get_their_owner(runs: Runs) -> None:
    runs.owned("a")
    runs.dispatcher.redis.hdel(keys.facts("a"), "owner")
    runs.sweep(after=1, heard=("a",))
    (view,) = runs.dispatcher.registry.snapshot(15)
    assert view.owner_id == runs.owners["a"]


# -- who checks ------------------------------------------------------------------------------------------
def checked(runs: Runs, task_id: str, on: str, **columns: Any) -> str:
    """Where the check of a task is placed that ran on this node."""
    runs.submit(task_id, 1)
    database = runs.dispatcher.database
    requested = {"pinned_node": on, **columns}
    database.write(lambda c: c.execute(update(tasks).where(tasks.c.id == task_id).values(requested)))
    assert runs.place(task_id) == 1
    database.write(lambda c: c.execute(update(tasks).where(tasks.c.id == task_id).values(pinned_node="")))
    runs.end(task_id, "")
    runs.place(f"{task_id}~1")
    return runs.runs(task_id)[f"{task_id}~1"]


def test_many_nodes_of_one_owner_are_drawn_no_more_often_than_one() -> None:
    nodes_of = {1: 99, 2: 1}
    choice = [
        Checker(node_id=f"{owner}-{number}", owner_id=owner, tier=Tier.LOW, trusted=True)
        for owner, count in nodes_of.items()
        for number in range(count)
    ]
    drawn = [checker_choice._one_of(choice) for _ in range(400)]
    # By nodes it would be four of four hundred.
    assert 120 < drawn.count("2-0") < 280


def test_a_region_that_is_only_preferred_does_not_choose_who_checks(runs: Runs) -> None:
    runs.owned("low", docker_status="none", region="africa")
    runs.owned("friend", region="africa", docker_status="none")
    runs.owned("stranger", region="asia")
    requirements = {"region": "africa", "location_mode": "prefer"}
    assert checked(runs, "t", "low", **requirements) == "stranger"
    # One that is demanded is kept: the data may not leave it.
    assert checked(runs, "t2", "low", **{**requirements, "location_mode": "strict"}) == "friend"


def test_neighbours_check_each_other_only_where_nobody_else_is(runs: Runs) -> None:
    database = runs.dispatcher.database
    runs.owned("low", docker_status="none")
    runs.owned("neighbour")
    for name in ("low", "neighbour"):
        at = update(nodes).where(nodes.c.id == name).values(peer_address="198.51.100.9")
        database.write(lambda c, q=at: c.execute(q))  # type: ignore[misc]
    assert checked(runs, "t", "low") == "neighbour"
    runs.owned("stranger")
    assert {checked(runs, f"t{number}", "low") for number in range(6)} == {"stranger"}
