"""However many tasks have ended, a sweep and the calls look at no more than before: everything that they ask
is noted in a small pool, and measured again when several times as many tasks have ended there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from benchmarks import filled_pool
from dispatcher import context, metrics_sources
from dispatcher.sweep.housekeeping import Housekeeping
from gateway.usecases import tasks as task_calls
from nodepool.domain.ends.attempt_end import End
from nodepool.domain.tasks.reasons import told
from nodepool.domain.tasks.states import Outcome
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import owner_relations, placements, queue_statistics, tasks as task_store
from nodepool.stores.sql.database import Database
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.fleet import Fleet
from tests.support.inner_gateway import InnerGateway
from tests.support.query_work import Asked, noted, plan_of, work_of
from tests.support.stores import add_task, attempt_of, place
from tests.support.tasks import new_task_id, script
from tests.support.valkey import TestValkey

FEW, MORE = 300, 1500
# A page of a list, and what a statement costs that finds nothing.
SLACK_STEPS, SLACK_ROWS = 1500, 60
GROWTH = 1.3
# Statements that look at more where more has ended, and why they may.
MAY_GROW: dict[str, str] = {
    "FROM job_steps JOIN tasks": "somebody looks at one job: all of its tasks are counted",
    "SELECT tasks.state, count(*) AS count_1": "once, when metrics are first asked for",
}


@dataclass
class Pool:
    """A gateway and a dispatcher on one database, without any process."""

    gateway: InnerGateway
    fleet: Fleet
    account: Account
    owners: list[int]

    @property
    def database(self) -> Database:
        return self.fleet.dispatcher.database

    def end_tasks(self, count: int, seed: int) -> None:
        now = self.fleet.now[0]
        filled_pool.fill(self.database, count, self.owners, now=now, seed=seed)
        if not self.database.is_sqlite:
            with self.database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("ANALYZE"))


@pytest.fixture
def pool(database_url: str, valkey: TestValkey, tmp_path: Path) -> Iterator[Pool]:
    gateway = InnerGateway(tmp_path, valkey, database_url=database_url, probe_hours=24, storage_key="k" * 32)
    now = [time.time()]
    dispatcher = context.build(gateway.settings, clock=lambda: now[0], steady=lambda: now[0])
    try:
        account = gateway.someone()
        owner_id = gateway.user_id(account)
        others = dispatcher.database.write(lambda c: filled_pool.people(c, 3, now[0]))
        made = Pool(gateway, Fleet(dispatcher, now, owner_id), account, [owner_id, *others])
        made.end_tasks(FEW, seed=1)
        yield made
    finally:
        dispatcher.close()
        gateway.close()


def test_a_sweep_looks_at_what_is_unfinished(pool: Pool) -> None:
    fleet = pool.fleet
    fleet.node("n1", max_tasks=3)
    fleet.running()
    fleet.placed(replicas=1, kind="user")
    for columns in (
        {},
        {"replicas": 3},
        {"wait_until": fleet.now[0] + 60, "retries": 1},
        {"state": "WAITING"},
    ):
        fleet.task(**columns)
    housekeeping = Housekeeping(fleet.dispatcher)
    sources = metrics_sources.sampler(fleet.dispatcher, fleet.placement_loop, "host", 1)
    with noted(pool.database) as asked:
        fleet.sweep(after=2, heard=("n1",))
        fleet.sweep(after=5, heard=("n1",))
        housekeeping.step()
        for reading in sources._readings:
            reading.source.read()
        pool.database.read(lambda c: _explained(c, fleet.now[0]))
        _of_a_stranger(pool)
        # Its node falls silent.
        fleet.silence("n1")
        fleet.sweep(after=20)
    housekeeping.close()
    assert len(asked) > 40
    _looks_at_no_more(pool, asked)


def _of_a_stranger(pool: Pool) -> None:
    """A run whose result is to be checked, for its node is not known."""
    fleet, database = pool.fleet, pool.database
    now, owner = fleet.now[0], pool.owners[1]
    task_id = database.write(lambda c: add_task(c, owner, created_at=now, tier="low"))
    assert database.write(lambda c: place(c, task_id, "n1", now=now))
    attempt = attempt_of(database, task_id)
    database.write(lambda c: task_store.claim_attempt(c, attempt, "n1", fleet.owner_id, now))
    end = End(outcome=Outcome.SUCCEEDED, exit_code=0, reason=told(""))
    fleet.dispatcher.lifecycle.end_attempt(attempt, "n1", fleet.owner_id, end)
    database.read(lambda c: owner_relations.related(c, pool.owners))


def _explained(connection: Connection, now: float) -> None:
    queue_statistics.oldest_waiting(connection, 10)
    queue_statistics.count_waiting(connection)
    queue_statistics.starts_since(connection, now - 600)
    queue_statistics.held_back(connection, 3)
    placements.running_of(connection, [1, 2])


def test_calls_look_at_what_they_show(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_calls, "_MAX_LISTED", 50)  # of a list that has no pages
    ended = pool.database.read(
        lambda c: c.execute(
            text("SELECT id, job_id, node_id FROM tasks WHERE owner_id = :owner AND job_id <> '' LIMIT 1"),
            {"owner": pool.owners[0]},
        ).one()
    )
    with noted(pool.database) as theirs, noted(pool.gateway.gateway.database) as asked:
        _use(pool.gateway, pool.account, *ended)
    assert not theirs
    assert len(asked) > 60
    _looks_at_no_more(pool, asked)


def _use(gateway: InnerGateway, account: Account, ended: str, job: str, node: str) -> None:
    """One of each call that people and agents make all day."""
    data = script("print(1)")
    tasks, users, nodes = account.stubs.tasks, account.stubs.users, account.stubs.nodes
    told = {"metadata": account.metadata, "timeout": CALL_SECONDS}
    waiting = account.submit(data, new_task_id(), labels={"stage": "v1"}, name="name1")
    account.poll(waiting)
    account.poll(ended)
    tasks.ExplainTask(pb.ExplainTaskRequest(task_id=waiting), **told)
    tasks.GetAllTasks(pb.GetAllTasksRequest(token=account.token), **told)
    for wanted in (
        {}, {"states": ["FAILED"]}, {"states": ["RUNNING"]}, {"name": "name1"}, {"labels": {"stage": "v1"}},
        {"node_id": node}, {"job_id": job}, {"since": time.time() - 3600},
    ):  # fmt: skip
        tasks.ListTasks(pb.ListTasksRequest(page_size=5, filter=pb.TaskFilter(**wanted)), **told)
    tasks.ResolveIds(pb.ResolveIdsRequest(names=["task_0", "array_task_0", ended, job]), **told)
    tasks.ListJobs(pb.ListJobsRequest(page_size=5), **told)
    tasks.ListJobTasks(pb.ListJobTasksRequest(job_id=job, page_size=5), **told)
    users.GetBalance(pb.GetBalanceRequest(token=account.token), **told)
    users.GetStatement(pb.GetStatementRequest(page_size=5), **told)
    users.GetStatement(pb.GetStatementRequest(page_size=5, task_id=ended), **told)
    users.SetSecret(pb.SetSecretRequest(name="TOKEN", value="a secret value"), **told)
    users.ListSecrets(pb.ListSecretsRequest(), **told)
    users.GetCredit(pb.GetCreditRequest(page_size=5), **told)
    nodes.GetNodeList(pb.GetNodeListRequest(include_offline=True), **told)
    watched = tasks.WatchTasks(pb.WatchTasksRequest(task_ids=[ended, waiting]), **told)
    next(watched)
    watched.cancel()
    running = gateway.running(account, data)
    result = b""
    nodes.FinishAttempt(iter([running.end(result)]), **told)
    account.stop(waiting)
    tasks.DeleteTask(pb.DeleteTaskRequest(task_id=waiting), **told)


def _looks_at_no_more(pool: Pool, asked: list[Asked]) -> None:
    database = pool.database
    before = [work_of(database, it) for it in asked]
    pool.end_tasks(MORE, seed=2)
    slack = SLACK_STEPS if database.is_sqlite else SLACK_ROWS
    grown = []
    for it, work in zip(asked, before, strict=True):
        now = work_of(database, it)
        if now > GROWTH * work + slack and not any(part in it.statement for part in MAY_GROW):
            grown.append(f"{work} -> {now}: {it.statement}\n{it.parameters}\n{plan_of(database, it)}")
    assert not grown, "\n\n".join(grown)
