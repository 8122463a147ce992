"""A task with arguments goes to no agent that would drop them: neither is it placed there nor claimed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from dispatcher import context
from nodepool.domain.capabilities import Capability
from nodepool.domain.errors import NotAbleError, StateConflictError
from nodepool.domain.nodes.node import NodeKind
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.sql import migrate, replicas as replica_store, tasks as task_store
from nodepool.stores.sql.tables import tasks
from tests.support.databases import sqlite_file
from tests.support.fleet import START, Fleet
from tests.support.inner_gateway import InnerGateway
from tests.support.stores import add_task, add_user, attempt_of, migrated, place
from tests.support.tasks import script
from tests.support.valkey import TestValkey

BEFORE = "0014"  # the revision before these columns
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


def test_over_the_wire_the_task_goes_elsewhere_and_nobody_is_blamed(
    valkey: TestValkey, tmp_path: Path
) -> None:
    gateway = InnerGateway(tmp_path, valkey)
    try:
        account = gateway.someone()
        node_id = f"{account.username}/node"
        node = pb.RegisterWorkerNodeRequest(
            node_id=node_id, hostname="host", cpu_cores=4, memory_gb=4, kind="agent", capabilities=["inputs"]
        )
        account.stubs.nodes.RegisterWorkerNode(node, metadata=account.metadata, timeout=60)
        task = account.submit(script("pass"), arguments=["a b"], environment={"A": "1"})
        gateway.gateway.database.write(lambda c: place(c, task, node_id))
        claim = pb.ClaimAttemptRequest(attempt_id=f"{task}:1", node_id=node_id)
        with pytest.raises(grpc.RpcError, match="passes no arguments or environment variables on") as refused:
            list(account.stubs.nodes.ClaimAttempt(claim, metadata=account.metadata, timeout=60))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        detail = account.detail(task)
        assert detail.state == "QUEUED"
        (attempt,) = detail.attempts
        assert (attempt.state, attempt.reason_class) == ("refused", "node_for_task")
        assert attempt.reason == f"the agent of node {node_id} is too old for what the task is given"
        gateway.gateway.database.write(lambda c: place(c, task, node_id, number=2))
        claim = pb.ClaimAttemptRequest(attempt_id=f"{task}:2", node_id=node_id, capabilities=["inputs"])
        spec = next(account.stubs.nodes.ClaimAttempt(claim, metadata=account.metadata, timeout=60)).spec
        assert (list(spec.arguments), dict(spec.environment)) == (["a b"], {"A": "1"})
    finally:
        gateway.close()


def test_a_database_with_such_tasks_does_not_go_back_to_a_version_that_would_drop_them(
    empty_database_url: str,
) -> None:
    with migrated(empty_database_url) as database:
        owner = database.write(add_user)
        database.write(lambda c: add_task(c, owner, "t1", **GIVEN))
        with pytest.raises(StateConflictError, match="1 tasks that have not ended have arguments"):
            migrate.downgrade(database, BEFORE)
        database.write(lambda c: c.execute(tasks.update().values(state="STOPPED", finished_at=1.0)))
        migrate.downgrade(database, BEFORE)


def test_secrets_go_to_trusted_nodes_and_to_ones_own_and_never_to_one_without_an_agent(fleet: Fleet) -> None:
    def owner_of_task(name: str) -> int:
        return fleet.dispatcher.database.write(lambda c: add_user(c, name))

    def task_of(owner: int, **columns: Any) -> str:
        given = {"image": GIVEN["image"], "capabilities": "secrets", "secrets": '{"T":"T"}', **columns}
        return fleet.dispatcher.database.write(
            lambda c: add_task(c, owner, created_at=START, updated_at=START, hinted_at=START, **given)
        )

    ann = owner_of_task("ann")
    fleet.node("pushed", kind=NodeKind.PUSHED, port=4000)
    fleet.node("low", docker_status="", capabilities="inputs secrets")
    careful, willing = task_of(ann), task_of(ann, secrets_on_low_trust=True)
    own = task_of(fleet.owner_id)
    fleet.place(careful, willing, own)
    assert fleet.states(careful, willing, own) == ["QUEUED", "PLACED", "PLACED"]
    assert fleet.row(willing).node_id == fleet.row(own).node_id == "low"
    fleet.sweep(after=1, heard=("pushed", "low"))
    assert "1 of low trust: its owner could read the secrets" in fleet.row(careful).reason
    assert "1 with an older agent or none, which passes no secrets on" in fleet.row(careful).reason
    fleet.node("trusted", capabilities="secrets")
    fleet.sweep(after=1, heard=("pushed", "low", "trusted"))
    assert (fleet.row(careful).state, fleet.row(careful).node_id) == ("PLACED", "trusted")
