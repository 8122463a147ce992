"""A task with arguments goes to no agent that would drop them: neither is it placed there nor claimed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher import context
from nodepool.domain.capabilities import Capability
from nodepool.domain.errors import NotAbleError
from nodepool.domain.nodes.node import NodeKind
from nodepool.settings import Settings
from nodepool.stores.sql import replicas as replica_store, tasks as task_store
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.stores import add_user, attempt_of
from tests.support.valkey import TestValkey

GIVEN: dict[str, Any] = {
    "arguments": '["-v"]',
    "environment": '{"A":"1"}',
    "capabilities": Capability.INPUTS,
    "image": Settings(_env_file=None).default_image,
}


@pytest.fixture
def fleet(valkey: TestValkey, tmp_path: Path) -> Iterator[Fleet]:
    settings = Settings.model_validate(
        {
            "redis_url": valkey.url,
            "db_path": sqlite_file(tmp_path / "users.db"),
            "task_storage_path": tmp_path,
            "push_to_nodes": True,
        }
    )
    now = [START]
    dispatcher = context.build(settings, clock=lambda: now[0])
    yield Fleet(dispatcher, now, dispatcher.database.write(add_user))
    dispatcher.close()


def test_it_waits_for_an_agent_that_passes_them_on(fleet: Fleet) -> None:
    fleet.node("old")
    fleet.node("pushed", kind=NodeKind.PUSHED, port=4000)
    given, plain = fleet.task(**GIVEN), fleet.task()
    assert fleet.place(given, plain) == 1
    assert fleet.states(given, plain) == ["QUEUED", "PLACED"]
    fleet.sweep(after=1, heard=("old", "pushed"))
    assert "2 with an older agent or none, which passes no arguments" in fleet.row(given).reason
    fleet.node("old", capabilities=Capability.INPUTS)
    fleet.sweep(after=1, heard=("old",))
    assert (fleet.row(given).state, fleet.row(given).node_id) == ("PLACED", "old")


def test_what_redis_has_forgotten_of_an_agent_is_told_it_again(fleet: Fleet) -> None:
    fleet.node("new", capabilities=Capability.INPUTS)
    fleet.dispatcher.redis.flushall()
    given = fleet.task(**GIVEN)
    for _ in range(3):
        fleet.sweep(after=1, heard=("new",))
    assert fleet.row(given).state == "PLACED"


def test_an_older_program_that_took_the_node_over_does_not_get_it(fleet: Fleet) -> None:
    fleet.node("n1", capabilities=Capability.INPUTS)
    given = fleet.placed(**GIVEN)
    attempt = attempt_of(fleet.dispatcher.database, given)

    def claim(*able: str) -> str:
        return fleet.dispatcher.database.write(
            lambda c: task_store.claim_attempt(c, attempt, "n1", fleet.owner_id, START, able=able)
        ).arguments

    with pytest.raises(NotAbleError, match="the agent of node n1 is too old"):
        claim()
    assert fleet.row(given).state == "PLACED"
    assert claim(Capability.INPUTS, "time_travel") == '["-v"]'


def test_runs_that_are_compared_are_given_the_same_and_need_the_same(fleet: Fleet) -> None:
    task = fleet.task(replicas=2, verification="pending", labels='{"a":"b"}', name="mine", **GIVEN)
    fleet.dispatcher.database.write(lambda c: replica_store.add_runs_of(c, task, (1, 2), START))
    for run in (fleet.row(f"{task}~1"), fleet.row(f"{task}~2")):
        assert {name: getattr(run, name) for name in GIVEN} == GIVEN
        assert (run.labels, run.name) == ("", "")
