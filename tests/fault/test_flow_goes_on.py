"""A flow 1 -> 50 -> 1, and an array, go on when everything but the nodes goes in the middle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from sqlalchemy import create_engine, select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import attempts, holds, ledger_entries, tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import job_of, submit_array
from tests.support.environment import ROOT
from tests.support.faults import await_begun, let_go
from tests.support.flows import counts_of
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script, unpacked

FLOW = ROOT / "examples/flow/flow.toml"
TOTAL = sum(range(1, 10_001))
FAILS_ONCE = """
import os
import sys as _sys

if os.environ["TASK_ID"] == "the-flow.add.7":
    _sys.exit(3)
"""
SQUARES = """
import os, pathlib, time
index = int(os.environ["HIVEMIND_INDEX"])
print("begun", os.urandom(4).hex(), flush=True)
while not index and not os.path.exists("go"):
    time.sleep(0.05)
pathlib.Path("square").write_text(str(index**2))
print("done")
"""


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1)


def _counts(user: Account, job_id: str) -> dict[str, dict[str, int]]:
    try:
        request = pb.GetJobRequest(job_id=job_id)
        answer = user.stubs.tasks.GetJob(request, metadata=user.metadata, timeout=CALL_SECONDS)
    except grpc.RpcError:
        return {}
    return counts_of(answer)


def _that_fails_once(folder: Path) -> Path:
    """The example, of which one part fails in the first flow."""
    shutil.copytree(FLOW.parent, folder)
    add = folder / "add.py"
    add.write_text(FAILS_ONCE + add.read_text(encoding="utf-8"), encoding="utf-8")
    return folder / FLOW.name


def test_it_goes_on_without_its_client_and_over_a_kill_of_everything_but_the_nodes(
    pool: TestPool, tmp_path: Path
) -> None:
    user, job_id, again = pool.register_user(), "the-flow", "the-flow-again"
    client = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hivemind",
            "run",
            str(_that_fails_once(tmp_path / "flow")),
            "--job-id",
            job_id,
        ],
        env={
            **pool.base_environment(),
            "HIVEMIND_GATEWAY": pool.address,
            "HIVEMIND_TOKEN": user.token,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pool.wait(lambda: _counts(user, job_id), "it is accepted")
    client.kill()
    client.wait()

    def some_are_added() -> bool:
        return _counts(user, job_id).get("add", {}).get("SUCCEEDED", 0) >= 3

    pool.wait(some_are_added, "some parts are added up")
    pool.gateway.kill()
    pool.dispatcher.kill()
    pool.valkey.admin.flushall()
    pool.start_gateway()
    pool.dispatcher.start()
    failed = {
        "split": {"SUCCEEDED": 1}, "add": {"SUCCEEDED": 49, "FAILED": 1}, "total": {"STOPPED": 1},
    }  # fmt: skip
    pool.wait(lambda: _counts(user, job_id) == failed, "all of it has ended", 120)
    request = pb.ResubmitJobRequest(job_id=job_id, new_job_id=again, states=["FAILED"])
    user.stubs.tasks.ResubmitJob(request, metadata=user.metadata, timeout=CALL_SECONDS)
    right = {"split": {}, "add": {"SUCCEEDED": 1}, "total": {"SUCCEEDED": 1}}
    pool.wait(lambda: _counts(user, again) == right, "what failed has succeeded", 120)
    total = unpacked(user.result(f"{again}.total"))
    assert total["total.txt"] == str(TOTAL).encode()
    assert not any(name.startswith("inputs") for name in total)
    _check_books(pool, job_id, 51)
    _check_books(pool, again, 2)


def test_an_array_is_neither_lost_nor_doubled_nor_paid_twice(pool: TestPool) -> None:
    """Its first task runs all the time, others have ended by then, and others wait."""
    user, job_id, count = pool.register_user(), "the-array", 14
    submit_array(user, job_id, count, zip_bytes=script(SQUARES))
    first = f"{job_id}.0"
    await_begun(pool, user, first)
    pool.wait(lambda: job_of(user, job_id).job.counts["SUCCEEDED"] >= 2, "two others have ended")
    pool.gateway.kill()
    pool.dispatcher.kill()
    pool.valkey.admin.flushall()
    let_go(pool, pool.agents[0], first)
    pool.start_gateway()
    pool.dispatcher.start()

    def counts() -> dict[str, int]:
        try:
            return dict(job_of(user, job_id).job.counts)
        except grpc.RpcError:
            return {}

    pool.wait(lambda: counts() == {"SUCCEEDED": count}, "all of it has succeeded", 120)
    made = [int(unpacked(user.result(f"{job_id}.{index}"))["square"]) for index in range(count)]
    assert made == [index**2 for index in range(count)]
    _check_books(pool, job_id, count)


def _check_books(pool: TestPool, job_id: str, count: int) -> None:
    """Every task was finished once and paid once."""
    engine = create_engine(pool.database_url)
    try:
        with engine.connect() as connection:
            mine = select(tasks.c.id).where(tasks.c.job_id == job_id)
            finished = select(attempts.c.task_id).where(
                attempts.c.task_id.in_(mine), attempts.c.state == "finished"
            )
            ended = list(connection.execute(finished).scalars())
            held = select(holds.c.task_id, holds.c.state, holds.c.posted).where(holds.c.task_id.in_(mine))
            paid = connection.execute(held).all()
            of_payments = select(ledger_entries.c.task_id).where(
                ledger_entries.c.task_id.in_(mine), ledger_entries.c.kind == "payment"
            )
            payments = list(connection.execute(of_payments).scalars())
    finally:
        engine.dispose()
    assert (len(ended), len(set(ended))) == (count, count)
    assert {(row.state, row.posted > 0) for row in paid} == {("posted", True)}
    assert len(paid) == count
    assert sorted(payments) == sorted(ended)
    database = Database(pool.database_url)
    try:
        assert ledger_store.verify_database(database).problems == []
    finally:
        database.close()
