"""Attempts on nodes without an agent, in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import update

from nodepool.domain.nodes.node import NodeFacts, NodeKind
from nodepool.domain.resources import Resources
from nodepool.domain.tasks.states import AttemptState
from nodepool.stores.sql import nodes as node_store, placements as placing, pushed_attempts
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import attempts
from tests.support.stores import add_node, add_task, add_user, migrated, placement


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with migrated(database_url) as database:
        yield database


@pytest.fixture
def owner(database: Database) -> int:
    return database.write(add_user)


def assigned(database: Database, owner: int, node_id: str = "worker", **facts: Any) -> str:
    def make(connection: Any) -> str:
        add_node(connection, owner, node_id, **{"kind": NodeKind.PUSHED, **facts})
        return add_task(connection, owner)

    task_id = database.write(make)
    assert database.write(lambda c: placing.place_all(c, [placement(task_id, node_id)], 100.0)).placed
    return f"{task_id}:1"


def test_an_attempt_is_one_callers_only(database: Database, owner: int) -> None:
    attempt = assigned(database, owner)
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda now: database.write(lambda c: pushed_attempts.mark_pushed(c, attempt, now)),
                [101.0 + number for number in range(16)],
            )
        )
    assert answers.count(True) == 1
    row = database.read(lambda c: pushed_attempts.find(c, attempt))
    assert row is not None
    assert row.pushed_at == 101.0 + answers.index(True)


@pytest.mark.parametrize("state", [state for state in AttemptState if state != AttemptState.ASSIGNED])
def test_only_an_assigned_attempt_is_sent(database: Database, owner: int, state: AttemptState) -> None:
    attempt = assigned(database, owner)
    database.write(lambda c: c.execute(update(attempts).values(state=state)))
    assert not database.write(lambda c: pushed_attempts.mark_pushed(c, attempt, 101.0))


def test_live_ones_are_those_on_nodes_without_an_agent(database: Database, owner: int) -> None:
    pushed = assigned(database, owner)
    agents = assigned(database, owner, "agent", kind=NodeKind.AGENT)
    assert [row.id for row in database.read(pushed_attempts.live)] == [pushed]
    for ids, found in (([pushed, agents], [pushed]), ([agents], []), ([], [])):
        assert [row.id for row in database.read(lambda c: pushed_attempts.live(c, ids))] == found  # noqa: B023
    assert database.read(lambda c: pushed_attempts.find(c, "nobody's:1")) is None


def test_where_a_registration_came_from_is_kept_and_renewed(database: Database, owner: int) -> None:
    attempt = assigned(database, owner)

    def register(peer: str) -> str:
        database.write(lambda c: _register_again(c, owner, peer))
        row = database.read(lambda c: pushed_attempts.find(c, attempt))
        assert row is not None
        return str(row.peer_address)

    assert [register("203.0.114.7"), register("2a00::7"), register("")] == ["203.0.114.7", "2a00::7", ""]


def _register_again(connection: Any, owner: int, peer: str) -> None:
    facts = NodeFacts(
        node_id="worker", hostname="host", cpu_cores=1, total=Resources(memory_gb=1), location="Asia",
        region="asia", port=1, gpu_name="", docker_status="", kind=NodeKind.PUSHED, max_tasks=1,
    )  # fmt: skip
    node_store.register(connection, facts, owner, 1.0, peer_address=peer)


def test_a_node_gets_a_moment_between_tasks_and_a_pause_before_the_same_one(
    database: Database, owner: int
) -> None:
    first = assigned(database, owner)
    task_id = first.rpartition(":")[0]
    row = database.read(lambda c: pushed_attempts.find(c, first))
    assert row is not None
    assert database.read(lambda c: pushed_attempts.pause_seconds(c, row, 100.0)) == 0
    database.write(lambda c: c.execute(update(attempts).values(state="refused", finished_at=100.0)))
    other = database.write(lambda c: add_task(c, owner))
    claims = {name: 0 for name in attempts.c.keys() if name.startswith("claim_")}  # noqa: SIM118
    rows = [
        {
            "id": f"{task}:{number}",
            "task_id": task,
            "number": number,
            "node_id": "worker",
            "state": "assigned",
            "created_at": 100.0,
            **claims,
        }
        for task, number in ((other, 1), (task_id, 2))
    ]
    database.write(lambda c: c.execute(attempts.insert(), rows))

    def pause(attempt: str, now: float) -> float:
        found = database.read(lambda c: pushed_attempts.find(c, attempt))
        assert found is not None
        return database.read(lambda c: pushed_attempts.pause_seconds(c, found, now))

    assert pause(f"{other}:1", 100.0) == pytest.approx(0.5)
    assert pause(f"{other}:1", 100.6) == 0
    assert pause(f"{task_id}:2", 100.0) == pytest.approx(1.0)
    assert pause(f"{task_id}:2", 101.0) == 0
