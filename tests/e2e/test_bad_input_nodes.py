"""Nodes that speak for attempts of others, send output that cannot be, or register nonsense."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import (
    CHUNK_LIMIT_BYTES,
    SETTINGS,
    RogueNode,
    assert_can_still_end,
    assert_unchanged,
    task_of,
)
from tests.support.tasks import script

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings=SETTINGS)


@pytest.fixture
def node(pool: TestPool) -> RogueNode:
    """A node whose attempts the tests are about; its owner gives it work."""
    return RogueNode(pool, pool.register_user()).join()


@pytest.fixture(scope="module")
def other(pool: TestPool) -> RogueNode:
    """A node of somebody else."""
    return RogueNode(pool, pool.register_user()).join()


FOREIGN: dict[str, Callable[[RogueNode, str, str], object]] = {
    "claim": lambda other, attempt, _: other.claim(attempt),
    "claim as the other's node": lambda other, attempt, node: other.claim(attempt, node_id=node),
    "append": lambda other, attempt, _: other.append(attempt, b"injected"),
    "append as the other's node": lambda other, attempt, node: other.append(
        attempt, b"injected", node_id=node
    ),
    "finish": lambda other, attempt, _: other.finish(other.end(attempt, output_tail=b"injected")),
    "finish as the other's node": lambda other, attempt, node: other.finish(
        other.end(attempt, node_id=node, output_tail=b"injected")
    ),
    "lose": lambda other, attempt, node: other.finish(
        other.end(attempt, node_id=node, outcome=pb.ATTEMPT_OUTCOME_LOST, result_bytes=0), b""
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("state", ["PLACED", "RUNNING"])
def test_an_attempt_of_somebody_elses_node_is_refused(
    node: RogueNode, other: RogueNode, what: str, state: str
) -> None:
    attempt = node.given()
    if state == "RUNNING":
        node.claim(attempt)
    code, _ = refused(lambda: FOREIGN[what](other, attempt, node.node_id))
    assert code is NOT_FOUND
    assert_unchanged(node.account, attempt, state)
    if state == "PLACED":
        node.claim(attempt)
    assert_can_still_end(node, attempt)


@pytest.mark.parametrize(
    "attempt_id",
    ["", ":", "no_such_task:1", "../../etc:1", "a:b", "*:1", "task\0:1", "x" * 5000],
    ids=lambda attempt_id: repr(attempt_id[:20]),
)
def test_an_attempt_that_is_none_is_not_found(node: RogueNode, attempt_id: str) -> None:
    for call in (
        lambda: node.claim(attempt_id),
        lambda: node.append(attempt_id, b"injected"),
        lambda: node.finish(node.end(attempt_id)),
    ):
        assert refused(call)[0] in {NOT_FOUND, INVALID}


def test_another_number_of_the_attempt_is_refused(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    for number in ("0", "2", "-1", "01", "1000000000000"):
        wrong = f"{task_of(attempt)}:{number}"
        for call in (
            lambda: node.claim(wrong),  # noqa: B023
            lambda: node.append(wrong, b"injected"),  # noqa: B023
            lambda: node.finish(node.end(wrong)),  # noqa: B023
        ):
            assert refused(call)[0] is NOT_FOUND
    assert_unchanged(node.account, attempt)
    assert_can_still_end(node, attempt)


@pytest.mark.parametrize(
    ("offset", "data"), [(-1, b"injected"), (-(2**63), b"injected"), (0, bytes(CHUNK_LIMIT_BYTES + 1))],
    ids=["before the start", "far before the start", "a huge chunk"],
)  # fmt: skip
def test_output_that_cannot_be_is_refused(node: RogueNode, offset: int, data: bytes) -> None:
    attempt = node.given()
    node.claim(attempt)
    assert refused(lambda: node.append(attempt, data, offset))[0] is INVALID
    assert_unchanged(node.account, attempt)
    assert node.append(attempt, b"said").next_offset == 4
    assert node.account.logs(task_of(attempt)) == "said"
    assert_can_still_end(node, attempt)


def test_output_with_a_gap_or_far_away_is_bounded_and_breaks_nothing(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    assert node.append(attempt, b"said").next_offset == 4
    assert node.append(attempt, b"said").next_offset == 4
    for offset in (1 << 20, 2**63 - 1):
        try:
            node.append(attempt, b"far", offset)
        except grpc.RpcError as error:
            assert error.code() is INVALID  # noqa: PT017
    assert len(node.account.logs(task_of(attempt))) < 1000
    assert node.account.poll(task_of(attempt)).status == "RUNNING"
    assert_can_still_end(node, attempt)


@pytest.mark.parametrize(
    "fields",
    [
        {"memory_gb": -1}, {"cpu_score": -1}, {"gpu_score": -1}, {"gpu_memory_gb": -1}, {"cpu_cores": -1},
        {"memory_gb": 2**31 - 1}, {"memory_gb": 65_537}, {"gpu_memory_gb": 65_537}, {"cpu_cores": 4097},
        {"cpu_score": 2**31 - 1}, {"gpu_score": 2**31 - 1}, {"max_tasks": -1}, {"max_tasks": 2**31 - 1},
        {"location": "Atlantis"},
        {"port": -1}, {"port": 70_000}, {"hostname": "h" * 100_000}, {"gpu_name": "g" * 100_000},
        {"hostname": "h\x1b[2J"}, {"docker_status": "d" * 100_000}, {"location": "\x1b"},
    ],
    ids=lambda fields: f"{next(iter(fields))} {str(next(iter(fields.values())))[:12]!r}",
)  # fmt: skip
def test_a_registration_that_cannot_be_is_refused(pool: TestPool, other: RogueNode, fields: Any) -> None:
    node_id = f"{other.account.username}/{secrets.token_hex(4)}"
    good = {"node_id": node_id, "cpu_cores": 1, "memory_gb": 1, "cpu_score": 1000, "kind": "agent"}
    request = pb.RegisterWorkerNodeRequest(**{**good, **fields})
    stub, metadata = other.account.stubs.nodes, other.account.metadata
    assert refused(lambda: stub.RegisterWorkerNode(request, metadata=metadata))[0] is INVALID
    assert node_id not in {node.node_id for node in other.account.node_list()}


def test_a_node_that_has_nothing_gets_nothing(pool: TestPool) -> None:
    user = pool.register_user()
    nothing = {"cpu_cores": 0, "memory_gb": 0, "cpu_score": 0, "gpu_score": 0, "gpu_memory_gb": 0}
    RogueNode(pool, user, "nothing").join(**nothing, location="Africa")
    task = user.submit(script("print('hello')"), location="Africa")
    pool.wait(lambda: "too small" in user.detail(task).reason, "the task says why it waits")
    assert user.detail(task).state == "QUEUED"
    # Until there is one that has something.
    node = RogueNode(pool, user, "something").join(location="Africa")
    pool.wait(lambda: user.detail(task).state == "PLACED", "the task is placed")
    assert user.detail(task).assigned_node == node.node_id
