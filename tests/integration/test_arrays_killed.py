"""kill -9 of a gateway while it accepts an array: nothing is half done, and the same again is whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from sqlalchemy import func, select, update

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import jobs, storage_accounts, tasks
from tests.support.accounts import CALL_SECONDS, Account, Stubs, register
from tests.support.arrays import PACKAGE, job_of, new_job_id, submit_array
from tests.support.gateway import GatewayProcess
from tests.support.hostile import refused
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

TASKS = 40_000


@pytest.fixture
def gateway(valkey: TestValkey, tmp_path: Path) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path, valkey).start_serving()
    yield process
    process.close()


def _answers(account: Account) -> bool:
    try:
        account.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError:
        return False
    return True


def test_a_gateway_that_is_killed_in_the_middle_leaves_nothing_that_anybody_sees(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    someone = register(Stubs(gateway.channel), "someone", "a good password")
    job_id, told = new_job_id(), []

    def send() -> None:
        told.append(refused(lambda: submit_array(someone, job_id, TASKS, timeout=120)))

    database = Database(f"sqlite:///{tmp_path / 'users.db'}")
    try:
        thread = threading.Thread(target=send)
        thread.start()
        query = select(func.count()).where(tasks.c.job_id == job_id)
        there = wait_until(
            lambda: database.read(lambda c: c.execute(query).scalar_one()), "some of its tasks are in", 60
        )
        gateway.kill()
        thread.join()
        assert there
        assert there < TASKS
        assert told[0][0] is grpc.StatusCode.UNAVAILABLE
        gateway.start()
        wait_until(lambda: _answers(someone), "it serves again", 60)
        listed = someone.stubs.tasks.GetAllTasks(
            pb.GetAllTasksRequest(token=someone.token), metadata=someone.metadata, timeout=CALL_SECONDS
        )
        assert list(listed.tasks) == []
        assert refused(lambda: job_of(someone, job_id))[0] is grpc.StatusCode.NOT_FOUND
        # Half a minute passes.
        database.write(lambda c: c.execute(update(jobs).values(renewed_at=1.0)))
        assert submit_array(someone, job_id, TASKS, timeout=120).tasks == TASKS
        assert dict(job_of(someone, job_id).job.counts) == {"QUEUED": TASKS}
        kept = select(storage_accounts.c.bytes)
        assert database.read(lambda c: c.execute(kept).scalars().all()) == [len(PACKAGE)]
        assert database.read(ledger_store.verify) == []
    finally:
        database.close()
