"""What a gateway does while the pool is not whole: it hears agents, and blames nobody for what ends by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from alembic import command
from sqlalchemy import select, update

from nodepool.clock import steady_clock
from nodepool.domain.outages import OwnOutages
from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis import agent_instances, keys
from nodepool.stores.sql import migrate, nodes as node_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import attempts, nodes, tasks
from tests.support.accounts import CALL_SECONDS
from tests.support.family import open_family
from tests.support.inner_gateway import InnerGateway, Running
from tests.support.migrations import alembic_to
from tests.support.money import add_held_task
from tests.support.tasks import script
from tests.support.valkey import TestValkey

REPORT = json.dumps({"v": 1, "cpu_percent": 1, "memory_percent": 2, "running": []}).encode()


@pytest.fixture
def gateway(valkey: TestValkey, tmp_path: Path) -> Iterator[InnerGateway]:
    gateway = InnerGateway(tmp_path, valkey)
    yield gateway
    gateway.close()


def at_work(gateway: InnerGateway) -> Running:
    # Not in the small ZIPs that come with the claim in one piece.
    return gateway.running(gateway.someone(), script("print('hello')"))


def report(run: Running, *, body: bytes = REPORT, instance: str = "") -> pb.ReportAgentResponse:
    request = pb.ReportAgentRequest(node_id=run.node_id, report=body, instance=instance)
    answer: pb.ReportAgentResponse = run.account.stubs.nodes.ReportAgent(
        request, metadata=run.account.metadata, timeout=CALL_SECONDS
    )
    return answer


def heard_at(gateway: InnerGateway, run: Running) -> float:
    rows = gateway.gateway.database.read(node_store.roll_call)
    return next(row.heard_at for row in rows if row.id == run.node_id)


def test_a_report_is_written_for_its_agent_which_learns_what_it_has(gateway: InnerGateway) -> None:
    run = at_work(gateway)
    answer = report(run)
    assert answer.heard
    assert [(it.attempt_id, it.stop_requested) for it in answer.attempts] == [(run.attempt_id, False)]
    redis = gateway.gateway.redis
    assert redis.get(keys.report(run.node_id)) == REPORT
    assert 0 < redis.ttl(keys.report(run.node_id)) <= keys.REPORT_TTL_SECONDS
    assert heard_at(gateway, run) == 0
    run.account.stop(run.task_id)
    assert [it.stop_requested for it in report(run).attempts] == [True]


def test_without_redis_sql_notes_that_the_agent_was_heard(gateway: InnerGateway, valkey: TestValkey) -> None:
    run = at_work(gateway)
    valkey.kill()
    try:
        assert report(run).heard
        first = heard_at(gateway, run)
        assert first > 0
        assert [it.attempt_id for it in report(run).attempts] == [run.attempt_id]
        assert heard_at(gateway, run) > first
    finally:
        valkey.restart()


def test_what_is_no_report_of_this_node_is_refused(gateway: InnerGateway) -> None:
    run, stranger = at_work(gateway), gateway.someone()
    codes = {}
    agent_instances.take_over(gateway.gateway.redis, run.node_id, "the-last-start")
    cases = {
        "too large": lambda: report(run, body=b"x" * (257 << 10)),
        "of a start that was replaced": lambda: report(run, instance="an-earlier-start"),
        "of another's node": lambda: report(Running(stranger, run.task_id, run.node_id, run.attempt_id)),
    }
    for name, call in cases.items():
        with pytest.raises(grpc.RpcError) as caught:
            call()
        codes[name] = caught.value.code()
    assert codes == {
        "too large": grpc.StatusCode.INVALID_ARGUMENT,
        "of a start that was replaced": grpc.StatusCode.FAILED_PRECONDITION,
        "of another's node": grpc.StatusCode.NOT_FOUND,
    }
    assert gateway.gateway.redis.get(keys.report(run.node_id)) is None


def lose(run: Running) -> None:
    end = pb.AttemptEnd(
        node_id=run.node_id,
        attempt_id=run.attempt_id,
        outcome=pb.ATTEMPT_OUTCOME_LOST,
        reason="the node had no contact with the pool",
    )
    run.account.stubs.nodes.FinishAttempt(
        iter([pb.FinishAttemptRequest(end=end)]), metadata=run.account.metadata, timeout=CALL_SECONDS
    )


@pytest.mark.parametrize("away", [True, False])
def test_a_run_that_is_lost_by_an_outage_counts_against_nobody(gateway: InnerGateway, *, away: bool) -> None:
    run = at_work(gateway)
    # Long after this gateway's start, or while something does not answer it.
    own = OwnOutages(steady_clock() - 3600, tolerated_seconds=1, still_seconds=7200)
    if away:
        own.failed()
    object.__setattr__(gateway.gateway, "outages", own)
    lose(run)
    task, attempt = gateway.gateway.database.read(
        lambda c: (
            c.execute(select(tasks).where(tasks.c.id == run.task_id)).one(),
            c.execute(select(attempts).where(attempts.c.id == run.attempt_id)).one(),
        )
    )
    assert (task.state, task.attempts_ended) == ("QUEUED", 0 if away else 1)
    assert (attempt.state, attempt.reason_code == ReasonCode.POOL_AWAY) == ("lost", away)
    streak = gateway.gateway.database.read(
        lambda c: c.execute(select(nodes.c.bad_streak).where(nodes.c.id == run.node_id)).scalar_one()
    )
    assert streak == (0 if away else 1)


@pytest.mark.parametrize(
    ("whose", "asked", "state", "attempt_state"),
    [
        ("a stranger's", False, "QUEUED", "lost"),
        ("a stranger's", True, "STOPPED", "stopped"),
        ("its own", False, "STOPPED", "stopped"),
    ],
)
def test_a_node_that_stops_a_strangers_run_by_itself_has_lost_it_and_is_not_paid(
    gateway: InnerGateway, whose: str, state: str, attempt_state: str, *, asked: bool
) -> None:
    run = at_work(gateway)
    database = gateway.gateway.database
    if whose == "a stranger's":
        stranger = gateway.user_id(gateway.someone())
        of = update(tasks).where(tasks.c.id == run.task_id).values(owner_id=stranger)
        database.write(lambda c: c.execute(of))
    if asked:
        stop = update(tasks).where(tasks.c.id == run.task_id).values(stop_requested=True)
        database.write(lambda c: c.execute(stop))
    result = script("print('all that there is')")
    request = run.end(result, outcome=pb.ATTEMPT_OUTCOME_STOPPED, run_seconds=3000.0, cpu_seconds=1.0)
    run.account.stubs.nodes.FinishAttempt(
        iter([request, pb.FinishAttemptRequest(result_chunk=result)]),
        metadata=run.account.metadata,
        timeout=CALL_SECONDS,
    )
    task, attempt = database.read(
        lambda c: (
            c.execute(select(tasks).where(tasks.c.id == run.task_id)).one(),
            c.execute(select(attempts).where(attempts.c.id == run.attempt_id)).one(),
        )
    )
    assert (task.state, attempt.state) == (state, attempt_state)
    assert bool(gateway.gateway.files.result_size(run.attempt_id)) == (state == "STOPPED")
    assert ("nobody had asked" in attempt.reason) == (state == "QUEUED")


def test_an_exclusive_task_with_replicas_is_refused_in_words(gateway: InnerGateway) -> None:
    user = gateway.someone()
    with pytest.raises(grpc.RpcError) as caught:
        user.submit(script("print('hello')"), exclusive=True, replicas=3)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ask for one of the two" in str(caught.value.details())
    task = user.submit(script("print('hello')"), exclusive=True)
    assert user.detail(task).exclusive


def test_tasks_and_nodes_of_before_are_not_exclusive_and_were_not_noted(database_url: str) -> None:
    database = Database(database_url)
    migrate.migrate(database)
    family = open_family(database)
    database.write(lambda c: add_held_task(c, family.user_id, "old", created_at=1.0))
    alembic_to(database, command.downgrade, "0010")
    migrate.migrate(database)
    assert database.read(lambda c: c.execute(select(tasks.c.exclusive)).scalars().all()) == [False]
    assert set(database.read(lambda c: c.execute(select(nodes.c.heard_at)).scalars().all())) == {0.0}
    database.close()
