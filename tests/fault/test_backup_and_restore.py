"""The drill: a pool that works is backed up, works on, dies, and is restored, on both databases.

Agents and broker live on, and know what the restored pool does not: attempts of the time that is lost.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from sqlalchemy import select

from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from nodepool.stores.sql.tables import attempts, credit_changes, nodes, tasks
from tests.support import databases
from tests.support.accounts import Account
from tests.support.backups import backed_up, restored
from tests.support.faults import WAITS, await_begun, folder_of, let_go
from tests.support.pool import PoolFactory, TestAgent, TestPool
from tests.support.tasks import script, unpacked

QUICK = script("print('done')")
WAITING = script(WAITS)
MOST_BESIDE, AFTERWARDS = 8, 2
SETTINGS = {"NEWCOMER_BALANCE_CPT": "100000", "REDIS_TIMEOUT_SECONDS": "3"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def pool(request: pytest.FixtureRequest, pool_factory: PoolFactory) -> Iterator[TestPool]:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(databases.postgres_database()) if request.param == "postgres" else ""
        made = pool_factory(agents=2, settings=SETTINGS, database_url=url)
        yield made
        for part in (made.dispatcher, made.gateway):
            if part.is_running:
                part.stop()


def _attempts(pool: TestPool, task: str) -> list[tuple[int, str, str]]:
    columns = attempts.c.number, attempts.c.state, attempts.c.reason_code
    found = pool.rows(select(*columns).where(attempts.c.task_id == task).order_by(attempts.c.number))
    return [tuple(row) for row in found]


def _balance(user: Account) -> pb.GetBalanceResponse:
    return user.stubs.users.GetBalance(pb.GetBalanceRequest(token=user.token), timeout=60)


def _agent_of(pool: TestPool, node_id: str) -> TestAgent:
    return next(agent for agent in pool.agents if agent.node_id == node_id)


def _end(pool: TestPool, user: Account, task: str) -> None:
    """Lets the current run of a task that waits go to its end."""
    detail = user.detail(task)
    let_go(pool, _agent_of(pool, detail.assigned_node), task, detail.attempt_number)
    user.wait_for(task, "COMPLETED")


class _Load:
    """Somebody who submits beside the backup, as fast as it goes."""

    def __init__(self, user: Account) -> None:
        self.accepted: list[str] = []
        self._user, self._stop = user, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while not self._stop.is_set() and len(self.accepted) < MOST_BESIDE:
            self.accepted.append(self._user.submit(QUICK))

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_nothing_that_had_ended_is_lost_nothing_is_paid_twice_and_nobody_is_to_blame(pool: TestPool) -> None:
    user, environment, folder = pool.register_user(), pool.environment(), pool.folder / "backups"
    ended = [user.submit(QUICK) for _ in range(2)]
    secret = pb.SetSecretRequest(name="TOKEN", value="a-value-that-nobody-reads")
    user.stubs.users.SetSecret(secret, metadata=user.metadata, timeout=20)
    for task in ended:
        user.wait_for(task, "COMPLETED")
    results = {task: user.result(task) for task in ended}
    # One of them ends after the backup, in a time that will not have been; the other runs on all the while.
    ends, runs_on = (user.submit(WAITING) for _ in range(2))
    first = {task: await_begun(pool, user, task) for task in (ends, runs_on)}
    with _Load(user) as load:
        pool.wait(lambda: len(load.accepted) >= 3, "tasks are submitted")
        made = backed_up(environment, folder)
    for _ in range(AFTERWARDS):
        user.submit(QUICK)
    _end(pool, user, ends)
    late = user.submit(WAITING)
    await_begun(pool, user, late)
    lost = [_work_of(pool, user, task) for task in (runs_on, late)]
    assert all(work.is_dir() for work in lost)
    newcomer = pool.register_user()
    pool.gateway.kill()
    pool.dispatcher.kill()

    done = restored(environment, folder, "--force")
    assert done["id"] == made["id"]
    assert done["runs_ended"] >= 2
    assert done["emptied_broker"]
    pool.start_gateway()
    pool.dispatcher.start()

    # What had ended is as it was, with its result.
    for task, result in results.items():
        assert user.poll(task).status == "COMPLETED"
        assert user.result(task) == result
    kept = user.stubs.users.ListSecrets(pb.ListSecretsRequest(), metadata=user.metadata, timeout=20).secrets
    assert [(it.name, it.unreadable) for it in kept] == [("TOKEN", False)]
    # What ran begins again, at nobody's cost; who still runs it for a pool that is gone ends that.
    again = {}
    for task in (ends, runs_on):
        again[task] = await_begun(pool, user, task, other_than=first[task])
        assert _attempts(pool, task)[0] == (1, "lost", ReasonCode.RESTORED)
    pool.wait(lambda: not any(work.exists() for work in lost), "the runs of the lost time are ended")
    for task in (ends, runs_on):
        _end(pool, user, task)
        assert _attempts(pool, task)[1:] == [(2, "finished", "")]
        assert unpacked(user.result(task))["who.txt"].decode() == again[task]
    # What came after the backup is gone, and says so.
    with pytest.raises(grpc.RpcError) as gone:
        user.poll(late)
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND
    assert "restored from a backup" in gone.value.details()
    with pytest.raises(grpc.RpcError) as unknown:
        newcomer.submit(QUICK)
    assert unknown.value.code() is grpc.StatusCode.UNAUTHENTICATED
    _nobody_paid_twice(pool, user)
    assert pool.rows(select(credit_changes.c.id).where(credit_changes.c.delta < 0)) == []
    assert {row.bad_streak for row in pool.rows(select(nodes.c.bad_streak))} == {0}


def _work_of(pool: TestPool, user: Account, task: str) -> Path:
    """The working directory of the task's run, on its agent's machine."""
    return folder_of(pool, _agent_of(pool, user.detail(task).assigned_node), task)


def _nobody_paid_twice(pool: TestPool, user: Account) -> None:
    rows = pool.rows(select(tasks.c.id).where(tasks.c.kind == "user"))
    known = [row.id for row in rows]
    for task in known:
        user.wait_for(task, "COMPLETED", timeout=90)
    paid = [user.detail(task).paid_cpt for task in known]
    balance = _balance(user)
    assert (balance.balance, balance.held) == (int(SETTINGS["NEWCOMER_BALANCE_CPT"]) - sum(paid), 0)
    for task in known:
        finished = [row for row in _attempts(pool, task) if row[1] == "finished"]
        assert len(finished) == 1
    database = Database(pool.database_url)
    try:
        assert verify_database(database).problems == []
    finally:
        database.close()
