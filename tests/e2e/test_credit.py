"""Credit on a whole pool: a loss is felt at once and explained, and low credit is limited and told so."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from sqlalchemy import update

from nodepool.domain.trust.access_limits import LIMITS
from nodepool.domain.trust.tiers import Tier
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import users
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import script

LOW = LIMITS[Tier.LOW]
PACKAGE = script("print('hello')")


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=0, settings=SETTINGS)


def credit(account: Account) -> pb.GetCreditResponse:
    request = pb.GetCreditRequest()
    return account.stubs.users.GetCredit(request, metadata=account.metadata, timeout=CALL_SECONDS)


def low_user(pool: TestPool, score: int = 31) -> Account:
    account = pool.register_user()
    database = Database(pool.database_url)
    try:
        mine = users.c.username == account.username
        database.write(lambda c: c.execute(update(users).where(mine).values(credit_score=score)))
    finally:
        database.close()
    return account


def test_a_loss_lowers_the_score_and_the_tier_at_once_and_says_why(pool: TestPool) -> None:
    provider, user = pool.register_user(), pool.register_user()
    node = RogueNode(pool, provider).join(docker_status="running")
    node.report()
    task_id = user.submit(PACKAGE, min_trust="normal")
    pool.wait(lambda: user.detail(task_id).assigned_node == node.node_id, "the task is placed there")
    attempt_id = node.attempt(task_id)
    node.claim(attempt_id)
    assert (credit(provider).score, node.info().trust_tier) == (50, "normal")
    node.finish(
        node.end(attempt_id, outcome=pb.ATTEMPT_OUTCOME_LOST, reason="it crashed", result_bytes=0), b""
    )
    after = credit(provider)
    assert (after.score, after.tier, node.info().trust_tier) == (48, "low", "low")
    (change,) = after.changes
    assert (change.delta, change.score_after, change.task_id, change.node_id) == (
        -2,
        48,
        task_id,
        node.node_id,
    )
    assert change.reason == "lost: it crashed"
    # Nothing that asks for more trust goes there now, without any wait.
    node.report()
    pool.wait(lambda: "trust" in user.detail(task_id).reason, "the task waits for a node of more trust")
    assert user.detail(task_id).state == "QUEUED"
    assert credit(user).score == 50
    user.stop(task_id)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"priority": 9}, "priority 5 or less"),
        ({"memory_gb": 9}, "memory_gb 8 or less"),
        ({"cpu_score": 5000}, "cpu_score 4000 or less"),
        ({"gpu_score": 1}, "ask for none"),
        ({"max_minutes": 600}, "max_minutes 120 or less"),
        ({"replicas": 5}, "replicas 3 or less"),
        ({"min_trust": "normal"}, "ask for min_trust low"),
    ],
)
def test_a_user_of_low_credit_is_told_what_would_be_allowed(
    pool: TestPool, wish: dict[str, Any], words: str
) -> None:
    account = low_user(pool)
    code, told = refused(lambda: account.submit(PACKAGE, **wish))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "31" in told
    assert words in told
    dry = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(**wish))
    call = account.stubs.tasks.ExplainTask
    assert refused(lambda: call(dry, metadata=account.metadata, timeout=CALL_SECONDS)) == (code, told)


def test_a_user_of_low_credit_may_have_so_many_unfinished_and_so_many_running(pool: TestPool) -> None:
    account = low_user(pool)
    facts: dict[str, Any] = {"max_tasks": 200, "memory_gb": 200, "cpu_score": 100_000, "location": "Europe"}
    node = RogueNode(pool, pool.register_user()).join(**facts)
    node.report()
    tasks = [account.submit(PACKAGE, cpu_score=1, location="Europe") for _ in range(LOW.unfinished_tasks)]
    code, told = refused(lambda: account.submit(PACKAGE))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{LOW.unfinished_tasks} unfinished tasks, as many as your credit score of 31 allows" in told

    def states() -> list[str]:
        return [account.detail(task_id).state for task_id in tasks]

    reason = f"its owner has {LOW.running_tasks} tasks running, as many as a credit score below 50 allows"

    def all_told() -> bool:
        waiting = [account.detail(task_id) for task_id in tasks]
        return all(task.reason == reason for task in waiting if task.state == "QUEUED")

    pool.wait(all_told, "those that wait say why")
    assert states().count("PLACED") == LOW.running_tasks
    waiting = next(task_id for task_id in tasks if account.detail(task_id).state == "QUEUED")
    request = pb.ExplainTaskRequest(task_id=waiting)
    explained = account.stubs.tasks.ExplainTask(request, metadata=account.metadata, timeout=CALL_SECONDS)
    assert (explained.message, explained.places_now) == (reason, False)
    # One ends, and one more comes.
    ended = next(task_id for task_id in tasks if account.detail(task_id).state == "PLACED")
    node.claim(node.attempt(ended))
    node.finish(node.end(node.attempt(ended)))
    pool.wait(lambda: states().count("PLACED") == LOW.running_tasks, "one more is placed")
    for task_id in tasks:
        account.stop(task_id)


def test_a_newcomer_is_not_limited_in_any_of_that(pool: TestPool) -> None:
    account = pool.register_user()
    tasks = [
        account.submit(PACKAGE, priority=9, memory_gb=900, cpu_score=50_000, gpu_score=1) for _ in range(60)
    ]
    assert {account.detail(task_id).state for task_id in tasks} == {"QUEUED"}
    for task_id in tasks:
        account.stop(task_id)
