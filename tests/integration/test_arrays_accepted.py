"""SubmitArray: whole or not at all, idempotent, told, bounded, and read back as a job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import job_intake
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import jobs, storage_accounts, task_labels, tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE, array_messages, job_of, lines_of, new_job_id, submit_array
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import package
from tests.support.valkey import TestValkey


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, newcomer_balance_cpt=1000)
    yield made
    made.close()


def _count(gateway: InnerGateway, job_id: str) -> int:
    query = select(func.count()).where(tasks.c.job_id == job_id)
    return gateway.gateway.database.read(lambda c: c.execute(query).scalar_one())


def _listed(account: Account) -> list[pb.TaskStatus]:
    request = pb.GetAllTasksRequest(token=account.token)
    answer = account.stubs.tasks.GetAllTasks(request, metadata=account.metadata, timeout=CALL_SECONDS)
    return list(answer.tasks)


def test_a_newcomers_sweep_is_accepted_and_holds_nothing_yet(gateway: InnerGateway) -> None:
    newcomer, job_id = gateway.someone(), new_job_id()
    rows = [(index, [str(index / 10), f"s{index}"]) for index in range(200)]
    answer = submit_array(
        newcomer, job_id, lines_of(rows), names=["lr", "seed"], name="sweep", labels={"exp": "1"},
        arguments=["--lr", "{lr}", "--seed={seed}"], environment={"RUN": "{index}"},
    )  # fmt: skip
    assert (answer.tasks, answer.max_minutes, answer.price_per_minute_cpt, answer.most_cpt) == (
        200, 60, 1, 12_000,
    )  # fmt: skip
    assert not answer.repeated
    told = job_of(newcomer, job_id)
    assert dict(told.job.counts) == {"QUEUED": 200}
    assert (told.job.name, dict(told.job.labels), told.job.held_cpt, told.job.kind) == (
        "sweep", {"exp": "1"}, 0, "array",
    )  # fmt: skip
    detail = newcomer.detail(f"{job_id}.7")
    assert list(detail.arguments) == ["--lr", "0.7", "--seed=s7"]
    assert dict(detail.environment) == {"RUN": "7"}
    assert (detail.job_id, detail.job_index, detail.holds_when_placed) == (job_id, 7, True)
    query = select(func.count()).where(task_labels.c.key == "exp")
    assert gateway.gateway.database.read(lambda c: c.execute(query).scalar_one()) == 200
    assert gateway.gateway.database.read(ledger_store.verify) == []


def test_the_same_again_changes_nothing_and_another_is_refused(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_array(someone, job_id, 10, arguments=["{index}"])
    again = submit_array(someone, job_id, 10, arguments=["{index}"])
    assert (again.repeated, again.tasks, again.most_cpt) == (True, 10, 600)
    assert _count(gateway, job_id) == 10
    for other in ({"items": 11}, {"arguments": ["{index} "]}, {"zip_bytes": package({"main.py": "1"})}):
        what: dict[str, Any] = {"items": 10, "arguments": ["{index}"], **other}
        code, _ = refused(lambda: submit_array(someone, job_id, **what))  # noqa: B023
        assert code is grpc.StatusCode.ALREADY_EXISTS
    code, words = refused(lambda: submit_array(gateway.someone(), job_id, 10, arguments=["{index}"]))
    assert (code, "another job" in words) == (grpc.StatusCode.ALREADY_EXISTS, True)
    assert _count(gateway, job_id) == 10


def test_the_package_is_stored_and_counted_once(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    data = package({"main.py": "print('once')", "data": "x" * 5000})
    before = len(gateway.packages())
    for _ in range(2):
        submit_array(someone, new_job_id(), 30, zip_bytes=data)
    assert len(gateway.packages()) == before + 1
    user_id = gateway.user_id(someone)
    query = select(storage_accounts.c.bytes).where(storage_accounts.c.user_id == user_id)
    assert gateway.gateway.database.read(lambda c: c.execute(query).scalar_one()) == len(data)


BAD: list[tuple[str, Callable[[Account, str], object], grpc.StatusCode, str]] = [
    (
        "none",
        lambda a, j: submit_array(a, j, 0),
        grpc.StatusCode.INVALID_ARGUMENT,
        "1 to 100000 tasks, not 0",
    ),
    (
        "too many",
        lambda a, j: submit_array(a, j, "", tasks=100_001),
        grpc.StatusCode.INVALID_ARGUMENT,
        "not 100001",
    ),
    (
        "twice",
        lambda a, j: submit_array(a, j, lines_of([(1, ()), (1, ())])),
        grpc.StatusCode.INVALID_ARGUMENT,
        "index 1 is there twice",
    ),
    (
        "unknown name",
        lambda a, j: submit_array(a, j, 2, arguments=["{lr}"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "no task has a value for",
    ),
    (
        "a value missing",
        lambda a, j: submit_array(a, j, lines_of([(0, ["1"]), (1, [])]), names=["lr"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "task 1 of the array has 0 values",
    ),
    (
        "fewer than told",
        lambda a, j: submit_array(a, j, 2, tasks=3),
        grpc.StatusCode.INVALID_ARGUMENT,
        "2 lines of items came",
    ),
    (
        "several runs",
        lambda a, j: submit_array(a, j, 2, replicas=3),
        grpc.StatusCode.INVALID_ARGUMENT,
        "run once each",
    ),
    (
        "no package",
        lambda a, j: submit_array(a, j, 2, zip_bytes=b"no zip"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "ZIP",
    ),
    (
        "over its bound",
        lambda a, j: submit_array(a, j, 200, max_minutes=10, max_cpt=1999),
        grpc.StatusCode.INVALID_ARGUMENT,
        "can cost 2000 CPT .* max_minutes 9 or less",
    ),
    (
        "not one is covered",
        lambda a, j: submit_array(a, j, 2, max_minutes=1001),
        grpc.StatusCode.FAILED_PRECONDITION,
        "1000 CPT in your account",
    ),
    ("bad id", lambda a, _: submit_array(a, "a b", 2), grpc.StatusCode.INVALID_ARGUMENT, "job_id"),
]


@pytest.mark.parametrize(("send", "code", "words"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_what_is_no_array_is_refused_and_nothing_is_kept(
    gateway: InnerGateway,
    send: Callable[[Account, str], object],
    code: grpc.StatusCode,
    words: str,
) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    before = gateway.packages()
    told = refused(lambda: send(someone, job_id))
    assert told[0] is code
    assert re.search(words, told[1]), told[1]
    assert _count(gateway, job_id) == 0
    assert gateway.packages() == before
    assert gateway.left_on_their_way() == []


def test_a_bound_on_what_it_costs_shortens_runs_that_name_none(gateway: InnerGateway) -> None:
    answer = submit_array(gateway.someone(), new_job_id(), 100, max_cpt=1550)
    assert (answer.max_minutes, answer.minutes_by_balance, answer.most_cpt) == (15, True, 1500)


def test_an_id_of_a_task_that_is_taken_refuses_all_of_it(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    someone.submit(PACKAGE, f"{job_id}.1200", max_minutes=1)
    code, words = refused(lambda: submit_array(someone, job_id, 1500))
    assert (code, "choose another job_id" in words) == (grpc.StatusCode.ALREADY_EXISTS, True)
    assert _count(gateway, job_id) == 0
    code, _ = refused(lambda: job_of(someone, job_id))
    assert code is grpc.StatusCode.NOT_FOUND
    assert [it.task_id for it in _listed(someone)] == [f"{job_id}.1200"]
    query = select(storage_accounts.c.bytes).where(storage_accounts.c.user_id == gateway.user_id(someone))
    assert gateway.gateway.database.read(lambda c: c.execute(query).scalar_one()) == len(PACKAGE)


def test_what_a_gateway_left_in_the_middle_is_seen_by_nobody_and_the_next_try_begins_anew(
    gateway: InnerGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    someone, job_id = gateway.someone(), new_job_id()

    def dies(*_: object) -> None:
        raise BaseExceptionGroup("the process ends", [SystemExit()])

    async def leaves_it(*_: object) -> None:
        """A process that ended drops nothing."""

    with monkeypatch.context() as patch:
        patch.setattr("gateway.usecases.submit_array._accept", dies)
        patch.setattr("gateway.usecases.job_acceptance.drop", leaves_it)
        # Nobody answers; well before whoever tries again would be let in.
        refused(lambda: submit_array(someone, job_id, 700, timeout=20.0))
    assert _count(gateway, job_id) == 700
    assert _listed(someone) == []
    code, _ = refused(lambda: someone.poll(f"{job_id}.3"))
    assert code is grpc.StatusCode.NOT_FOUND
    # It might be somebody who still puts it in.
    code, words = refused(lambda: submit_array(someone, job_id, 700))
    assert (code, "just being accepted" in words) == (grpc.StatusCode.UNAVAILABLE, True)
    monkeypatch.setattr(job_intake, "PATIENCE_SECONDS", -1.0)
    assert submit_array(someone, job_id, 800).tasks == 800
    assert _count(gateway, job_id) == 800
    assert len(_listed(someone)) == 800


def test_many_tries_at_once_are_one_job(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()

    def send(_: int) -> str:
        try:
            return "again" if submit_array(someone, job_id, 1200).repeated else "first"
        except grpc.RpcError as error:
            return str(error.code())  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(send, range(4)))
    assert told.count("first") == 1
    assert set(told) <= {"first", "again", "StatusCode.UNAVAILABLE"}
    assert _count(gateway, job_id) == 1200


def test_another_users_job_is_not_there(gateway: InnerGateway) -> None:
    someone, other, job_id = gateway.someone(), gateway.someone(), new_job_id()
    submit_array(someone, job_id, 3)
    tasks_stub, metadata = other.stubs.tasks, other.metadata
    for ask in (
        lambda: job_of(other, job_id),
        lambda: tasks_stub.ListJobTasks(pb.ListJobTasksRequest(job_id=job_id), metadata=metadata),
        lambda: tasks_stub.StopJob(pb.StopJobRequest(job_id=job_id), metadata=metadata),
    ):
        assert refused(ask)[0] is grpc.StatusCode.NOT_FOUND
    listed = tasks_stub.ListJobs(pb.ListJobsRequest(), metadata=metadata)
    assert list(listed.jobs) == []


def test_jobs_and_their_tasks_come_in_pages(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    ids = [new_job_id() for _ in range(5)]
    for job_id in ids:
        submit_array(someone, job_id, lines_of((index, ()) for index in (0, 4, 9)))
    found, token = [], ""
    while True:
        request = pb.ListJobsRequest(page_size=2, page_token=token)
        page = someone.stubs.tasks.ListJobs(request, metadata=someone.metadata)
        found += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert found == ids[::-1]
    request = pb.ListJobTasksRequest(job_id=ids[0], page_size=2)
    first = someone.stubs.tasks.ListJobTasks(request, metadata=someone.metadata)
    assert ([it.detail.job_index for it in first.tasks], first.next_index) == ([0, 4], 9)
    request.from_index = first.next_index
    last = someone.stubs.tasks.ListJobTasks(request, metadata=someone.metadata)
    assert ([it.detail.job_index for it in last.tasks], last.next_index) == ([9], 0)
    for bad in ({"states": ["DONE"]}, {"page_size": -1}):
        request = pb.ListJobTasksRequest(job_id=ids[0], **bad)  # type: ignore[arg-type]
        code, _ = refused(
            lambda: someone.stubs.tasks.ListJobTasks(request, metadata=someone.metadata)  # noqa: B023
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_job_is_stopped_with_all_that_waits(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_array(someone, job_id, 1100)
    request = pb.StopJobRequest(job_id=job_id)
    answer = someone.stubs.tasks.StopJob(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    assert answer.stopped == 1100
    told = job_of(someone, job_id)
    assert dict(told.job.counts) == {"STOPPED": 1100}
    assert told.job.stop_requested
    assert [(it.state, it.tasks) for it in told.reasons] == [("STOPPED", 1100)]
    again = someone.stubs.tasks.StopJob(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    assert (again.success, again.stopped) == (False, 0)


def test_where_the_money_is_gone_the_job_says_so(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_array(someone, job_id, 5, max_minutes=30)
    someone.submit(PACKAGE, max_minutes=980)
    (reason,) = job_of(someone, job_id).reasons
    assert (reason.state, reason.code, reason.tasks) == ("QUEUED", "no_money", 5)
    assert "30 are set aside when it is placed" in reason.reason
    request = pb.ExplainTaskRequest(task_id=f"{job_id}.2")
    told = someone.stubs.tasks.ExplainTask(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    assert told.waits_for_money
    assert "20 CPT, and 980 are held by other tasks" in told.message


def test_a_stream_that_breaks_off_keeps_nothing(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    messages = list(array_messages(job_id, lines_of((index, ()) for index in range(5))))
    code, _ = refused(lambda: someone.stubs.tasks.SubmitArray(iter(messages[:-1]), metadata=someone.metadata))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    query = select(jobs.c.id).where(jobs.c.id == job_id)
    assert gateway.gateway.database.read(lambda c: c.execute(query).all()) == []
