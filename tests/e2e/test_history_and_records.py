"""Histories of nodes and records of attempts, as people see them over the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import RESULT, SETTINGS, RogueNode, task_of
from tests.support.tasks import script

GIB = 1 << 30
REFUSED, LOST = pb.ATTEMPT_OUTCOME_REFUSED, pb.ATTEMPT_OUTCOME_LOST
NOTHING = {"result_sha256": "", "result_bytes": 0}


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings={**SETTINGS, "NEWCOMER_CREDIT_SCORE": "100"})


@pytest.fixture
def node(pool: TestPool) -> Iterator[RogueNode]:
    """The only node of the pool, of high trust."""
    node = RogueNode(pool, pool.register_user()).join(docker_status="running")
    yield node
    leave(node)


def leave(node: RogueNode) -> None:
    request = pb.DeregisterNodeRequest(node_id=node.node_id)
    node.account.stubs.nodes.DeregisterNode(request, metadata=node.account.metadata, timeout=CALL_SECONDS)


def drain(node: RogueNode) -> None:
    request = pb.SetNodeDrainingRequest(node_id=node.node_id, draining=True)
    node.account.stubs.nodes.SetNodeDraining(request, metadata=node.account.metadata, timeout=CALL_SECONDS)


def fail(node: RogueNode, outcome: pb.AttemptOutcome.ValueType) -> None:
    """One task that the node does not run; it is stopped afterwards, and asks for no node again."""
    attempt_id = node.chosen()
    node.account.stop(task_of(attempt_id))
    assert node.finish(node.end(attempt_id, outcome=outcome, **NOTHING), b"").success


def test_a_poll_tells_what_was_wished_and_how_each_attempt_went(node: RogueNode) -> None:
    requested = {"priority": 7, "min_trust": "normal", "location": "Asia", "location_mode": "prefer"}
    attempt_id = node.chosen(max_minutes=3, **requested)
    task_id = task_of(attempt_id)
    node.claim(attempt_id)
    node.append(attempt_id, b"12345")
    node.finish(
        node.end(attempt_id, output_offset=5, output_tail=b"678", cpu_seconds=1e9, peak_memory_bytes=GIB)
    )
    detail = node.account.detail(task_id)
    assert (detail.priority, detail.min_trust, detail.location_mode) == (7, "normal", "prefer")
    assert detail.max_minutes == 3
    (record,) = detail.attempts
    assert (record.number, record.node_id, record.state) == (1, node.node_id, "finished")
    assert (record.has_exit_code, record.exit_code) == (True, 0)
    assert detail.created_at <= record.placed_at <= record.started_at <= record.finished_at
    assert record.queue_seconds == pytest.approx(record.placed_at - detail.created_at)
    assert record.bytes_in == len(script("print('hello')"))
    assert record.bytes_out == 8 + len(RESULT)
    assert record.peak_memory_bytes == GIB
    # It cannot have used more than its four cores for as long as it had the task.
    assert 0 < record.cpu_seconds <= 4 * (record.finished_at - record.started_at) * 1.001


def test_attempts_are_in_polls_only(node: RogueNode) -> None:
    task_id = task_of(node.chosen())
    assert len(node.account.detail(task_id).attempts) == 1
    request = pb.GetAllTasksRequest(token=node.account.token)
    listed = node.account.stubs.tasks.GetAllTasks(
        request, metadata=node.account.metadata, timeout=CALL_SECONDS
    )
    assert [len(task.detail.attempts) for task in listed.tasks] == [0]
    node.account.stop(task_id)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"cpu_seconds": math.nan, "peak_memory_bytes": -1}, (0.0, 0)),
        ({"cpu_seconds": -math.inf, "peak_memory_bytes": -(2**63)}, (0.0, 0)),
        ({"cpu_seconds": -1.0, "peak_memory_bytes": 2**63 - 1}, (0.0, 4 * GIB)),
    ],
)
def test_a_node_that_lies_about_its_use_is_kept_within_what_can_be(
    node: RogueNode, fields: dict[str, float], kept: tuple[float, int]
) -> None:
    attempt_id = node.chosen()
    node.claim(attempt_id)
    node.finish(node.end(attempt_id, output_offset=1 << 40, **fields))
    (record,) = node.account.detail(task_of(attempt_id)).attempts
    assert (record.cpu_seconds, record.peak_memory_bytes) == kept
    assert record.bytes_out <= (10 << 20) + len(RESULT)


def test_a_node_that_refuses_again_and_again_gets_one_task_at_a_time_until_one_succeeds(
    node: RogueNode,
) -> None:
    assert (node.info().kind, node.info().on_probation) == ("agent", False)
    unknown = node.info()
    assert (unknown.success_rate, unknown.relative_speed, unknown.history_weight) == (0.8, 1.0, 0.0)
    for _ in range(3):
        fail(node, REFUSED)
    info = node.info()
    assert info.on_probation
    assert info.success_rate == pytest.approx(0.5, abs=0.01)
    assert info.history_weight == pytest.approx(3, abs=0.01)

    account = node.account
    node.report()
    ids = [account.submit(script("print('hello')")) for _ in range(2)]

    def placed() -> list[str]:
        return [task_id for task_id in ids if account.detail(task_id).state == "PLACED"]

    node.pool.wait(lambda: len(placed()) == 1, "one of two tasks is placed")
    first = placed()[0]
    (second,) = set(ids) - {first}
    # Told, and not only not placed yet.
    node.pool.wait(lambda: "task slots" in account.detail(second).reason, "the other waits for a slot")
    node.claim(node.attempt(first))
    node.finish(node.end(node.attempt(first)))
    node.pool.wait(lambda: placed() == [second], "the other is placed")
    assert not node.info().on_probation
    account.stop(second)


def test_a_node_that_drains_and_hands_back_is_not_on_probation(node: RogueNode) -> None:
    running = [node.chosen() for _ in range(4)]
    drain(node)
    for attempt_id in running:
        node.account.stop(task_of(attempt_id))
        node.finish(node.end(attempt_id, outcome=REFUSED, reason="the node is shutting down", **NOTHING), b"")
    assert not node.info().on_probation
    assert node.info().success_rate > 0.7


def test_a_node_that_only_says_that_it_shuts_down_is_on_probation(node: RogueNode) -> None:
    for _ in range(3):
        attempt_id = node.chosen()
        node.account.stop(task_of(attempt_id))
        node.finish(node.end(attempt_id, outcome=REFUSED, reason="the node is shutting down", **NOTHING), b"")
    assert node.info().on_probation


def test_the_tier_follows_docker_and_what_runs_goes_on(node: RogueNode) -> None:
    attempt_id = node.chosen(min_trust="high")
    node.claim(attempt_id)
    assert node.info().trust_tier == "high"
    node.register(docker_status="unavailable")
    assert node.info().trust_tier == "low"
    node.report()
    waiting = node.account.submit(script("print('hello')"), min_trust="high")
    node.pool.wait(lambda: "trust" in node.account.detail(waiting).reason, "it says why it waits")
    node.register(docker_status="running")
    assert node.info().trust_tier == "high"
    node.pool.wait(lambda: node.account.detail(waiting).state == "PLACED", "it is placed when Docker is back")
    assert node.info().running_tasks == 2
    assert node.account.detail(task_of(attempt_id)).state == "RUNNING"
    assert node.finish(node.end(attempt_id)).success
    node.account.stop(waiting)


def test_a_node_that_comes_back_with_other_hardware_is_recomputed_and_keeps_what_runs(
    node: RogueNode,
) -> None:
    attempt_id = node.chosen(cpu_score=1000)
    node.claim(attempt_id)
    node.register(docker_status="running", cpu_score=1000, cpu_cores=1, memory_gb=2, max_tasks=2)
    info = node.info()
    assert (info.cpu_score, info.memory_gb, info.max_tasks, info.running_tasks) == (1000, 2, 2, 1)
    node.report()
    # 1500 points are left to give in all, and 1000 of them are taken.
    waiting = node.account.submit(script("print('hello')"), cpu_score=1000)
    node.pool.wait(lambda: "cpu_score" in node.account.detail(waiting).reason, "it waits for cpu_score")
    assert node.finish(node.end(attempt_id)).success
    node.pool.wait(lambda: node.account.detail(waiting).state == "PLACED", "it is placed in its stead")
    node.account.stop(waiting)
