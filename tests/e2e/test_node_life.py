"""What a node tells of itself while it lives: other hardware, an engine that stops, the same start again."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import script


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings={**SETTINGS, "NEWCOMER_CREDIT_SCORE": "100"})


@pytest.fixture
def node(pool: TestPool) -> RogueNode:
    return RogueNode(pool, pool.register_user())


def shown(node: RogueNode) -> pb.WorkerNodeInfo:
    (info,) = (info for info in node.account.node_list() if info.node_id == node.node_id)
    return info


def drain(node: RogueNode) -> None:
    request = pb.SetNodeDrainingRequest(node_id=node.node_id, draining=True)
    node.account.stubs.nodes.SetNodeDraining(request, metadata=node.account.metadata, timeout=CALL_SECONDS)


def task_for(node: RogueNode, **needs: Any) -> str:
    """A task that no other test's node can take."""
    return node.account.submit(script("print('hello')"), location=shown(node).location, **needs)


def test_a_node_that_registers_with_other_hardware_is_counted_anew(pool: TestPool, node: RogueNode) -> None:
    node.join(memory_gb=1, location="Africa")
    task = task_for(node, memory_gb=3)
    pool.wait(lambda: "too small" in node.account.detail(task).reason, "the task says why it waits")
    node.join(memory_gb=4, location="Africa")
    pool.wait(lambda: node.account.detail(task).state == "PLACED", "the task is placed")
    second = task_for(node, memory_gb=3)
    pool.wait(lambda: bool(node.account.detail(second).reason), "the second one waits")
    assert shown(node).memory_gb == 4
    # With less than is promised already nothing more is promised, and what is there goes on.
    node.join(memory_gb=2, location="Africa")
    assert node.account.detail(task).state == "PLACED"
    assert node.account.detail(second).state == "QUEUED"


def test_a_node_whose_engine_stopped_has_low_trust_and_gets_no_work(pool: TestPool, node: RogueNode) -> None:
    node.join(docker_status="running", instance="one", location="Europe")
    assert shown(node).trust_tier == "high"
    node.register(docker_status="stopped", instance="one", again=True, location="Europe")
    assert shown(node).trust_tier == "low"
    task = task_for(node)
    pool.wait(lambda: bool(node.account.detail(task).reason), "the task says why it waits")
    assert node.account.detail(task).state == "QUEUED"
    node.register(docker_status="running", instance="one", again=True, location="Europe")
    pool.wait(lambda: node.account.detail(task).state == "PLACED", "the task is placed")
    assert shown(node).trust_tier == "high"


def test_draining_outlives_the_same_start_and_ends_with_the_next(node: RogueNode) -> None:
    node.join(instance="one")
    drain(node)
    node.register(instance="one", again=True)
    assert shown(node).draining
    node.register(instance="two")
    assert not shown(node).draining


def test_an_earlier_start_is_told_that_another_one_has_the_node(node: RogueNode) -> None:
    node.register(instance="one")
    node.register(instance="two")
    stub, metadata = node.account.stubs.nodes, node.account.metadata
    for call in (
        lambda: node.register(instance="one", again=True),
        lambda: stub.EnrollAgent(
            pb.EnrollAgentRequest(node_id=node.node_id, instance="one"), metadata=metadata
        ),
    ):
        code, message = refused(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "another agent has been started" in message
    request = pb.EnrollAgentRequest(node_id=node.node_id, instance="two")
    assert stub.EnrollAgent(request, metadata=metadata).success
    # What Redis has forgotten is whose it is that asks first.
    node.pool.valkey.admin.delete(f"node:{node.node_id}:instance")
    node.register(instance="one", again=True)
    assert (
        refused(lambda: node.register(instance="two", again=True))[0] is grpc.StatusCode.FAILED_PRECONDITION
    )
