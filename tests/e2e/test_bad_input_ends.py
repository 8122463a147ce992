"""Nodes that lie about the end of an attempt of theirs: its outcome, its result, or that it ever began."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import (
    CHUNK_LIMIT_BYTES,
    MAX_RESULT_BYTES,
    RESULT,
    SETTINGS,
    RogueNode,
    assert_can_still_end,
    assert_unchanged,
    task_of,
)
from tests.support.tasks import unpacked

INVALID, STALE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings=SETTINGS)


@pytest.fixture
def node(pool: TestPool) -> RogueNode:
    """A node whose attempts the tests are about; its owner gives it work."""
    return RogueNode(pool, pool.register_user()).join()


@pytest.mark.parametrize(
    ("fields", "result", "words"),
    [
        ({"result_sha256": "0" * 64}, RESULT, "SHA-256"),
        ({"result_sha256": ""}, RESULT, "SHA-256"),
        ({"result_bytes": len(RESULT) + 1}, RESULT, "announced"),
        ({"result_bytes": len(RESULT) - 1}, RESULT, "announced"),
        ({"result_bytes": 0}, RESULT, "announced"),
        ({"result_bytes": -1}, RESULT, "announced"),
        ({"result_bytes": -1}, b"", "announced"),
        ({}, b"", "announced"),
        ({}, RESULT + b"more", "announced"),
        ({"result_bytes": MAX_RESULT_BYTES + 1}, RESULT, "limit"),
        ({"result_bytes": 2**62}, RESULT, "limit"),
        ({"outcome": 0}, RESULT, "outcome"),
        ({"outcome": 77}, RESULT, "outcome"),
        ({"output_tail": bytes(CHUNK_LIMIT_BYTES + 1)}, RESULT, "output_tail"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else str(len(value)),
)
def test_an_end_that_is_not_true_is_refused_and_the_true_one_is_taken_after_it(
    node: RogueNode, fields: dict[str, Any], result: bytes, words: str
) -> None:
    attempt = node.given()
    node.claim(attempt)
    code, message = refused(lambda: node.finish(node.end(attempt, **fields), result))
    assert code is INVALID
    assert words in message
    assert_unchanged(node.account, attempt)
    assert_can_still_end(node, attempt)


def test_a_stream_that_names_a_second_end_is_refused(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    end = pb.FinishAttemptRequest(end=node.end(attempt))
    piece = pb.FinishAttemptRequest(result_chunk=RESULT)
    for messages in ([end, end, piece], [piece, end], [], [end, pb.FinishAttemptRequest(), piece]):
        stub, metadata = node.account.stubs.nodes, node.account.metadata
        code, _ = refused(lambda: stub.FinishAttempt(iter(messages), metadata=metadata))  # noqa: B023
        assert code is INVALID
    assert_unchanged(node.account, attempt)
    assert_can_still_end(node, attempt)


def test_an_attempt_that_was_never_claimed_cannot_succeed(pool: TestPool, node: RogueNode) -> None:
    attempt = node.given()
    for outcome in (pb.ATTEMPT_OUTCOME_SUCCEEDED, pb.ATTEMPT_OUTCOME_FAILED):
        code, message = refused(lambda: node.finish(node.end(attempt, outcome=outcome)))  # noqa: B023
        assert code is STALE
        assert "claimed" in message
    assert_unchanged(node.account, attempt, "PLACED")
    kept = [path.name for path in (pool.folder / "storage" / "results").rglob("*") if path.is_file()]
    assert not [name for name in kept if attempt.replace(":", "@") in name]
    node.claim(attempt)
    assert_can_still_end(node, attempt)


def test_the_end_told_again_changes_nothing_and_another_end_is_refused(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    assert_can_still_end(node, attempt)
    before = node.account.detail(task_of(attempt))
    assert node.finish(node.end(attempt)).success
    for outcome in (
        pb.ATTEMPT_OUTCOME_FAILED,
        pb.ATTEMPT_OUTCOME_STOPPED,
        pb.ATTEMPT_OUTCOME_REFUSED,
        pb.ATTEMPT_OUTCOME_LOST,
    ):
        assert refused(lambda: node.finish(node.end(attempt, outcome=outcome)))[0] is STALE  # noqa: B023
    assert refused(lambda: node.claim(attempt))[0] is STALE
    assert node.account.detail(task_of(attempt)) == before
    assert node.account.result(task_of(attempt)) == RESULT


def test_a_result_that_is_no_zip_harms_nobody_but_its_reader(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    noise = secrets.token_bytes(1000)
    end = node.end(attempt, result_sha256=hashlib.sha256(noise).hexdigest(), result_bytes=len(noise))
    assert node.finish(end, noise).success
    assert node.account.result(task_of(attempt)) == noise
    assert node.account.logs(task_of(attempt)) == ""


def test_a_reason_cannot_steer_a_terminal(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    end = node.end(
        attempt, outcome=pb.ATTEMPT_OUTCOME_FAILED, exit_code=1, reason="\x1b[2J\n" + "x" * 100_000
    )
    assert node.finish(end).success
    reason = node.account.detail(task_of(attempt)).reason
    assert reason.isprintable()
    assert len(reason) <= 500


def test_a_task_that_its_node_loses_again_and_again_ends_and_what_the_node_refuses_does_not_count(
    pool: TestPool, node: RogueNode
) -> None:
    task = task_of(node.given())
    for number in range(1, 7):
        pool.wait(
            lambda: (
                node.account.detail(task).attempt_number == number  # noqa: B023
                and node.account.detail(task).state == "PLACED"
            ),
            f"{task} is placed again",
        )
        attempt = pool.attempt(task, number)
        outcome = pb.ATTEMPT_OUTCOME_REFUSED if number == 1 else pb.ATTEMPT_OUTCOME_LOST
        if outcome == pb.ATTEMPT_OUTCOME_LOST:
            node.claim(attempt)
        end = node.end(attempt, outcome=outcome, reason="do not want", result_bytes=0, result_sha256="")
        assert node.finish(end, b"").success
        if number > 1:
            assert refused(lambda: node.claim(pool.attempt(task, number - 1)))[0] is STALE  # noqa: B023
    answer = node.account.poll(task)
    assert answer.status == "FAILED"
    assert "given up after 5 attempts" in answer.detail.reason


def test_a_result_is_what_its_owner_gets_unpacked(node: RogueNode) -> None:
    attempt = node.given()
    node.claim(attempt)
    assert_can_still_end(node, attempt)
    assert unpacked(node.account.result(task_of(attempt)))["made.txt"] == b"made"
