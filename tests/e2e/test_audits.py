"""Audits on a whole pool: a liar among low-trust nodes is found out by a secret second run, and its user gets
the right result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import PoolOptions, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import package, script, unpacked

HONEST = "open('out.txt', 'w').write('42')\nprint('worked')\n"
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
    task_id = user.submit(script(HONEST), max_minutes=5, location="Europe")
    pool.wait(lambda: user.detail(task_id).assigned_node == rogue.node_id, "the only node there has the task")
    honest = [pool.register_user(f"honest{number}") for number in range(3)]
    for owner in honest:
        pool.add_agent(f"node-of-{owner.username}", owner, location="Europe")
    before, start = balance(liar), [balance(owner) for owner in honest]
    attempt_id = rogue.attempt(task_id)
    rogue.claim(attempt_id)
    end = rogue.end(attempt_id, result_sha256=hashlib.sha256(LIE).hexdigest(), result_bytes=len(LIE))
    assert rogue.finish(end, LIE).success
    # The user has it at once, and is told that it is not verified yet.
    detail = user.detail(task_id)
    assert (detail.state, detail.verification, detail.paid_cpt) == ("SUCCEEDED", "pending", 1)
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
    task_id = user.submit(script(HONEST), max_minutes=5)
    user.wait_for(task_id, "COMPLETED")
    pool.wait(lambda: user.detail(task_id).verification == "audited", "it is confirmed")
    assert balance(user) == start - 1
    listed = user.stubs.tasks.GetAllTasks(pb.GetAllTasksRequest(token=user.token), timeout=CALL_SECONDS)
    assert [it.task_id for it in listed.tasks] == [task_id]
