"""Audits on a whole pool: a liar among low-trust nodes is found out by a secret second run, and its user gets
the right result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc
import pytest
from sqlalchemy import select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import PoolOptions, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import package, script, unpacked

HONEST = "open('out.txt', 'w').write('42')\nprint('worked')\n"
GOOD = package({"main.py": HONEST, "out.txt": "42", "execution_log.txt": "exit", "task_logs.txt": "worked\n"})
LIE = package({"main.py": HONEST, "out.txt": "41", "execution_log.txt": "exit", "task_logs.txt": "worked\n"})


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPool]:
    pool = TestPool(
        tmp_path_factory.mktemp("audits"), PoolOptions(agents=0, settings={**SETTINGS, "AUDIT_SHARE": "0.1"})
    )
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


def balance(account: Account) -> int:
    request = pb.GetBalanceRequest(username=account.username, token=account.token)
    return account.stubs.users.GetBalance(request, timeout=CALL_SECONDS).balance


def test_a_lie_is_found_out_replaced_and_not_paid(pool: TestPool) -> None:
    user, liar = pool.register_user("asker"), pool.register_user("liar")
    rogue = RogueNode(pool, liar).join(location="Europe")
    task_id = user.submit(script(HONEST), max_minutes=5, location="Europe", take_pending=True)
    pool.wait(lambda: user.detail(task_id).assigned_node == rogue.node_id, "the only node there has the task")
    honest = [pool.register_user(f"honest{number}") for number in range(3)]
    for owner in honest:
        pool.add_agent(f"node-of-{owner.username}", owner, location="Europe")
    before, start = balance(liar), [balance(owner) for owner in honest]
    attempt_id = rogue.attempt(task_id)
    rogue.claim(attempt_id)
    end = rogue.end(attempt_id, result_sha256=hashlib.sha256(LIE).hexdigest(), result_bytes=len(LIE))
    assert rogue.finish(end, LIE).success
    # The user wanted it at once, and is told that it is not verified yet.
    detail = user.detail(task_id)
    assert (detail.state, detail.has_result, detail.paid_cpt) == ("SUCCEEDED", True, 1)
    assert detail.verification in {"pending", "disputed"}
    pool.wait(lambda: user.detail(task_id).verification == "disputed", "the lie is found out")
    detail = user.detail(task_id)
    assert unpacked(user.result(task_id))["out.txt"] == b"42"
    assert user.logs(task_id) == "worked\n"
    assert detail.reason.startswith("its first result was false")
    assert detail.assigned_node != rogue.node_id
    assert {it.verdict for it in detail.replica_records} == {"agreed"}
    paid = len(detail.replica_records)
    assert sum(balance(owner) for owner in honest) == sum(start) + paid
    assert balance(liar) == before
    # It is not given anything for a while.
    for _ in range(3):
        done = user.submit(script(HONEST), max_minutes=5, location="Europe")
        assert user.wait_for(done, "COMPLETED").detail.assigned_node != rogue.node_id


def test_an_honest_newcomer_is_confirmed_and_paid(pool: TestPool) -> None:
    user, newcomer = pool.register_user("user2"), pool.register_user("newcomer")
    others = [pool.register_user(f"other{number}") for number in range(2)]
    for owner in (newcomer, *others):
        pool.add_agent(f"node-of-{owner.username}", owner)
    start = balance(user)
    task_id = user.submit(script(HONEST), max_minutes=5, location="Asia")
    user.wait_for(task_id, "COMPLETED")
    pool.wait(lambda: user.detail(task_id).verification == "audited", "it is confirmed")
    assert balance(user) == start - 1
    listed = user.stubs.tasks.GetAllTasks(pb.GetAllTasksRequest(token=user.token), timeout=CALL_SECONDS)
    assert [it.task_id for it in listed.tasks] == [task_id]


def held_task(
    pool: TestPool, user: Account, rogue: RogueNode, place: str, **needs: object
) -> tuple[str, str]:
    """A task of this user that the newcomer's node has, and its attempt."""
    task_id = user.submit(script(HONEST), max_minutes=5, location=place, **needs)
    pool.wait(lambda: user.detail(task_id).assigned_node == rogue.node_id, "the only node there has the task")
    attempt_id = rogue.attempt(task_id)
    rogue.claim(attempt_id)
    return task_id, attempt_id


def test_a_newcomers_result_is_given_when_it_stands_and_who_watches_waits_for_that(pool: TestPool) -> None:
    user = pool.register_user()
    newcomer = RogueNode(pool, pool.register_user()).join(location="Africa")
    held, attempt = held_task(pool, user, newcomer, "Africa")
    at_once, other_attempt = held_task(pool, user, newcomer, "Africa", take_pending=True)
    stopped, third_attempt = held_task(pool, user, newcomer, "Africa")
    # Others who could check it, and who do nothing until they are told to.
    checkers = [RogueNode(pool, pool.register_user()).join(location="Africa") for _ in range(3)]
    for attempt_id in (attempt, other_attempt, third_attempt):
        assert newcomer.finish_with(attempt_id, GOOD).success

    assert (user.poll(at_once).status, user.detail(at_once).verification) == ("COMPLETED", "pending")
    assert unpacked(user.result(at_once))["out.txt"] == b"42"

    answer = user.poll(held)
    assert (answer.status, answer.detail.state, answer.detail.has_result) == ("RUNNING", "RUNNING", False)
    assert answer.detail.held_back_until > answer.detail.created_at
    assert "its result is being checked" in answer.message
    request = pb.GetTaskResultRequest(task_id=held, token=user.token)
    refused = user.stubs.tasks.GetTaskResult(request, metadata=user.metadata, timeout=CALL_SECONDS)
    assert (refused.success, refused.result_zip) == (False, b"")
    assert refused.message.startswith("not finished yet: its result is being checked")
    with pytest.raises(grpc.RpcError) as error:
        list(download(user, held))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    answered = user.stop(stopped)
    assert answered.success
    assert "its result is given now" in answered.message
    assert (user.poll(stopped).status, user.detail(stopped).verification) == ("COMPLETED", "pending")

    watch = pb.WatchTaskRequest(task_id=held)
    events = user.stubs.tasks.WatchTask(watch, metadata=user.metadata, timeout=CALL_SECONDS)
    first = next(event.state for event in events if event.HasField("state"))
    assert (first.state, first.held_back_until) == ("RUNNING", answer.detail.held_back_until)
    # Nobody knows any of them: three have to agree.
    for number in (1, 2):
        confirm(pool, checkers, f"{held}~{number}")
    *_, last = [event.state for event in events if event.HasField("state")]
    assert (last.state, last.verification, last.held_back_until) == ("SUCCEEDED", "audited", 0)
    assert unpacked(user.result(held))["out.txt"] == b"42"


def confirm(pool: TestPool, checkers: list[RogueNode], run_id: str) -> None:
    """Whoever has this run returns the same."""
    pool.wait(lambda: node_of(pool, run_id), f"{run_id} is placed")
    (checker,) = [node for node in checkers if node.node_id == node_of(pool, run_id)]
    attempt_id = pool.attempt(run_id)
    checker.claim(attempt_id)
    assert checker.finish_with(attempt_id, GOOD).success


def node_of(pool: TestPool, run_id: str) -> str:
    return "".join(
        row.node_id or "" for row in pool.rows(select(tasks.c.node_id).where(tasks.c.id == run_id))
    )


def download(user: Account, task_id: str) -> Iterator[pb.DownloadResultResponse]:
    request = pb.DownloadResultRequest(task_id=task_id)
    return iter(user.stubs.tasks.DownloadResult(request, metadata=user.metadata, timeout=CALL_SECONDS))
