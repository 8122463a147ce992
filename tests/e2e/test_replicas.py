"""Tasks with several runs on a whole pool: owners apart, votes, liars, stops, and who is paid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.pool import PoolOptions, TestPool
from tests.support.rogue import SETTINGS, RogueNode
from tests.support.tasks import package, script, unpacked

HONEST = "open('out.txt', 'w').write('42')\nprint('worked')\n"
LIE = package({"main.py": HONEST, "out.txt": "41", "execution_log.txt": "exit", "task_logs.txt": "worked\n"})
WAITS_FOR_A_STOP = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"


class Owners:
    """A pool with agents of three owners, and somebody who submits."""

    def __init__(self, pool: TestPool) -> None:
        self.pool = pool
        self.owners = [pool.register_user(f"provider{number}") for number in range(3)]
        for owner in self.owners:
            pool.add_agent(f"node-of-{owner.username}", owner)
        self.user = pool.register_user("asker")

    def balance(self, account: Account) -> int:
        request = pb.GetBalanceRequest(username=account.username, token=account.token)
        return account.stubs.users.GetBalance(request, timeout=CALL_SECONDS).balance

    def score(self, account: Account) -> int:
        request = pb.GetCreditRequest(token=account.token)
        return account.stubs.users.GetCredit(request, timeout=CALL_SECONDS).score

    def nodes_of(self, task_id: str) -> set[str]:
        records = self.user.detail(task_id).replica_records
        return {it.node_id for it in records if it.node_id}

    def states(self, task_id: str) -> list[str]:
        return [it.state for it in self.user.detail(task_id).replica_records]

    @contextmanager
    def rogue(self, account: Account, name: str = "rogue") -> Iterator[RogueNode]:
        """A node that the test plays; it leaves at the end."""
        node = RogueNode(self.pool, account, name).join()
        try:
            yield node
        finally:
            request = pb.DeregisterNodeRequest(node_id=node.node_id)
            account.stubs.nodes.DeregisterNode(request, metadata=account.metadata, timeout=CALL_SECONDS)

    def run_on(self, task_id: str, node: RogueNode) -> str:
        """The attempt of the run that this node has, once it has one."""
        self.pool.wait(lambda: node.node_id in self.nodes_of(task_id), f"{node.node_id} has a run")
        records = self.user.detail(task_id).replica_records
        return next(node.attempt(f"{task_id}~{it.number}") for it in records if it.node_id == node.node_id)


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owners]:
    folder: Path = tmp_path_factory.mktemp("replicas")
    pool = TestPool(folder, PoolOptions(agents=0, settings=SETTINGS))
    try:
        pool.start()
        yield Owners(pool)
    finally:
        pool.close()


def test_three_runs_on_three_owners_nodes_agree_and_all_are_paid(owners: Owners) -> None:
    user, before = owners.user, [owners.balance(owner) for owner in owners.owners]
    start = owners.balance(user)
    task_id = user.submit(script(HONEST), replicas=3, max_minutes=5)
    answer = user.wait_for(task_id, "COMPLETED")
    assert unpacked(user.result(task_id))["out.txt"] == b"42"
    assert user.logs(task_id) == "worked\n"
    detail = answer.detail
    assert (detail.replicas, detail.verification, detail.exit_code) == (3, "agreed", 0)
    assert [(it.number, it.state, it.verdict) for it in detail.replica_records] == [
        (number, "SUCCEEDED", "agreed") for number in (1, 2, 3)
    ]
    assert len({it.digest for it in detail.replica_records}) == 1
    assert {it.node_id.partition("/")[0] for it in detail.replica_records} == {
        owner.username for owner in owners.owners
    }
    assert [owners.balance(owner) for owner in owners.owners] == [amount + 1 for amount in before]
    assert owners.balance(user) == start - 3 == start - detail.paid_cpt


def test_a_lie_is_outvoted_and_not_paid(owners: Owners) -> None:
    user, liar = owners.user, owners.pool.register_user("liar")
    with owners.rogue(liar) as rogue:
        before, score = owners.balance(liar), owners.score(liar)
        task_id = user.submit(script(HONEST), replicas=4, max_minutes=5)
        attempt = owners.run_on(task_id, rogue)
        assert rogue.claim(attempt).task_id == task_id  # what its program is told is the same for all
        assert rogue.finish(rogue.end(attempt, **announced(LIE)), LIE).success
        detail = user.wait_for(task_id, "COMPLETED").detail
    assert unpacked(user.result(task_id))["out.txt"] == b"42"
    verdicts = {it.node_id: it.verdict for it in detail.replica_records}
    assert verdicts.pop(rogue.node_id) == "differs"
    assert list(verdicts.values()) == ["agreed"] * 3
    assert (owners.balance(liar), detail.paid_cpt) == (before, 3)
    assert owners.score(liar) == score  # who ordered the runs may be a friend of those who agreed
    # Told again, nothing changes.
    assert rogue.finish(rogue.end(attempt, **announced(LIE)), LIE).success
    assert owners.balance(liar) == before


def test_two_nodes_of_one_owner_get_one_run_of_a_task(owners: Owners) -> None:
    user, liar = owners.user, owners.pool.register_user("twice")
    with owners.rogue(liar, "first") as first, owners.rogue(liar, "second") as second:
        task_id = user.submit(script(WAITS_FOR_A_STOP), replicas=5, max_minutes=5)
        owners.pool.wait(lambda: len(owners.nodes_of(task_id)) == 4, "four owners have a run")
        assert len({first.node_id, second.node_id} & owners.nodes_of(task_id)) == 1
        explained = user.stubs.tasks.ExplainTask(
            pb.ExplainTaskRequest(task_id=task_id), metadata=user.metadata, timeout=CALL_SECONDS
        )
        assert explained.message.endswith(
            "looked at 5 nodes: 5 of an owner who has another run of it, or who submitted it"
        )
        rogue = first if first.node_id in owners.nodes_of(task_id) else second
        attempt = owners.run_on(task_id, rogue)
        assert user.stop(task_id).success
        stopped = pb.ATTEMPT_OUTCOME_STOPPED
        assert rogue.finish(
            rogue.end(attempt, outcome=stopped, result_sha256="", result_bytes=0), b""
        ).success
        user.wait_for(task_id, "STOPPED")


def test_a_stop_ends_all_runs_and_keeps_what_one_of_them_made(owners: Owners) -> None:
    user = owners.user
    task_id = user.submit(script(WAITS_FOR_A_STOP), replicas=3, max_minutes=5)
    owners.pool.wait(lambda: "begun" in user.logs(task_id), "its output is shown while it runs")
    owners.pool.wait(lambda: owners.states(task_id) == ["RUNNING"] * 3, "all of its runs run")
    assert user.stop(task_id).success
    detail = user.wait_for(task_id, "STOPPED").detail
    assert owners.states(task_id) == ["STOPPED"] * 3
    assert "task_stopped.txt" in unpacked(user.result(task_id))
    assert detail.paid_cpt == 3


def test_runs_are_not_in_lists_and_nobody_reaches_one_by_its_id(owners: Owners) -> None:
    user, stranger = owners.user, owners.pool.register_user("stranger")
    task_id = user.submit(script(HONEST), replicas=2, max_minutes=5)
    request = pb.GetAllTasksRequest(token=user.token)
    listed = user.stubs.tasks.GetAllTasks(request, timeout=CALL_SECONDS).tasks
    assert [it.task_id for it in listed if it.task_id.startswith(task_id)] == [task_id]
    run = f"{task_id}~1"
    calls = {
        "poll": user.poll,
        "result": user.result,
        "stop": user.stop,
        "another's poll": stranger.poll,
    }
    for name, call in calls.items():
        with pytest.raises(grpc.RpcError) as refused:
            call(run)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND, name
    with pytest.raises(grpc.RpcError) as refused:
        user.submit(script(HONEST), run)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    user.wait_for(task_id, "COMPLETED")


def test_a_task_that_is_never_the_same_is_given_up_and_nobody_is_blamed(owners: Owners) -> None:
    user, scores = owners.user, [owners.score(owner) for owner in owners.owners]
    by_chance = "import secrets\nopen('out.txt', 'w').write(secrets.token_hex())\n"
    task_id = user.submit(script(by_chance), replicas=2, max_minutes=5)
    detail = user.wait_for(task_id, "FAILED").detail
    assert detail.verification == "disputed"
    assert detail.reason.startswith("its 3 runs returned 3 different results")
    assert [it.verdict for it in detail.replica_records] == ["none"] * 3
    assert [owners.score(owner) for owner in owners.owners] == scores


def test_what_is_not_declared_may_differ(owners: Owners) -> None:
    user = owners.user
    noisy = "import time, secrets\nopen('log.txt', 'w').write(secrets.token_hex())\n" + HONEST
    task_id = user.submit(script(noisy), replicas=3, compare_outputs=["out*.txt"], max_minutes=5)
    assert user.wait_for(task_id, "COMPLETED").detail.verification == "agreed"


def test_a_task_that_fails_everywhere_fails_with_its_exit_code(owners: Owners) -> None:
    user = owners.user
    task_id = user.submit(script("raise SystemExit(7)"), replicas=3, max_minutes=5)
    detail = user.wait_for(task_id, "FAILED").detail
    assert (detail.exit_code, detail.verification) == (7, "agreed")


@pytest.mark.parametrize("fields", [{"replicas": 6}, {"replicas": -1}, {"compare_outputs": ["/etc/passwd"]}])
def test_what_cannot_be_is_refused(owners: Owners, fields: dict[str, object]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        owners.user.submit(script(HONEST), **fields)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def announced(result: bytes) -> dict[str, object]:
    return {"result_sha256": hashlib.sha256(result).hexdigest(), "result_bytes": len(result)}
