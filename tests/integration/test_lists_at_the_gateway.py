"""Lists, beginnings of ids, waiting and the operator's looks at a real gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from sqlalchemy import select, update

from hivemind import JobInfo, MissingError, NodePoolClient, NotYetError, RefusedError, TaskInfo, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import admin_acts, tasks, users
from tests.support.accounts import CALL_SECONDS, Account, log_in
from tests.support.arrays import new_job_id, submit_array
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import package
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

DATA = package({"main.py": "print('hello')"})


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server)
    yield made
    made.close()


@pytest.fixture
def ann(gateway: InnerGateway) -> Account:
    return gateway.someone()


@pytest.fixture
def client(gateway: InnerGateway, ann: Account) -> Iterator[NodePoolClient]:
    with NodePoolClient(f"127.0.0.1:{gateway.port}", token=ann.token) as made:
        yield made


@pytest.fixture
def operator(gateway: InnerGateway) -> Account:
    someone = gateway.someone()
    role = update(users).where(users.c.username == someone.username).values(role="admin")
    gateway.gateway.database.write(lambda c: c.execute(role))
    return log_in(gateway.stubs, someone.username, someone.password)


def listed(account: Account, **asked: Any) -> pb.ListTasksResponse:
    size, token = asked.pop("page_size", 0), asked.pop("page_token", "")
    request = pb.ListTasksRequest(filter=pb.TaskFilter(**asked), page_size=size, page_token=token)
    return account.stubs.tasks.ListTasks(request, metadata=account.metadata, timeout=CALL_SECONDS)


def end(gateway: InnerGateway, task_id: str, state: TaskState, exit_code: int | None = None) -> None:
    """As far as a watcher can tell."""
    values = {"state": state, "exit_code": exit_code, "finished_at": 5.0, "started_at": 2.0}
    change = update(tasks).where(tasks.c.id == task_id).values(values)
    gateway.gateway.database.write(lambda c: c.execute(change))
    gateway.gateway.outputs.announce(task_id)


def acts(gateway: InnerGateway, operator: Account) -> list[tuple[str, str, dict[str, Any]]]:
    query = select(admin_acts.c.action, admin_acts.c.subject, admin_acts.c.detail).order_by(admin_acts.c.seq)
    mine = query.where(admin_acts.c.admin == operator.username)
    rows = gateway.gateway.database.read(lambda c: c.execute(mine).all())
    return [(row.action, row.subject, json.loads(row.detail)) for row in rows]


# -- lists -----------------------------------------------------------------------------------------------
def test_pages_are_the_callers_and_of_one_question(gateway: InnerGateway, ann: Account) -> None:
    mine = [ann.submit(DATA, name="n", labels={"k": "v"}) for _ in range(3)]
    bob = gateway.someone()
    bob.submit(DATA, name="n", labels={"k": "v"})
    first = listed(ann, labels={"k": "v"}, page_size=2)
    assert [it.task_id for it in first.tasks] == mine[:0:-1]
    assert dict(first.tasks[0].detail.labels) == {"k": "v"}
    rest = listed(ann, labels={"k": "v"}, page_size=2, page_token=first.next_page_token)
    assert ([it.task_id for it in rest.tasks], rest.next_page_token) == (mine[:1], "")
    for who, asked in (
        (bob, {"labels": {"k": "v"}}),
        (ann, {"labels": {"k": "w"}}),
        (ann, {}),
    ):
        code, words = refused(lambda: listed(who, page_token=first.next_page_token, **asked))  # noqa: B023
        assert (code, "page_token must be" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    for bad in (
        {"page_size": -1},
        {"states": ["DONE"]},
        {"labels": {"k": "\n"}},
        {"since": -1.0},
        {"name": "\x7f"},
    ):
        assert refused(lambda: listed(ann, **bad))[0] is grpc.StatusCode.INVALID_ARGUMENT  # noqa: B023


def test_the_sdk_lists_what_is_asked_for(client: NodePoolClient, ann: Account) -> None:
    mine = [ann.submit(DATA, labels={"n": str(number)}) for number in range(4)]
    client.stop(mine[0])
    assert [task.task_id for task in client.tasks()] == mine[::-1]
    assert [task.task_id for task in client.tasks(limit=2)] == mine[:1:-1]
    assert [task.task_id for task in client.tasks(states=[TaskState.STOPPED])] == mine[:1]
    assert [task.task_id for task in client.tasks(labels={"n": "2"})] == [mine[2]]
    assert list(client.tasks(since=4e9)) == []
    no_time: Any = "yesterday"
    for bad in (
        {"limit": -1}, {"labels": {"": ""}}, {"since": float("nan")}, {"node": "a b"}, {"since": no_time},
        {"name": None}, {"labels": {"k": 1}}, {"states": ["DONE"]},
    ):  # fmt: skip
        with pytest.raises(RefusedError):
            list(client.tasks(**bad))  # type: ignore[arg-type]


# -- what is meant ---------------------------------------------------------------------------------------
def test_a_whole_id_is_itself_and_a_beginning_counts_where_one_has_it(
    gateway: InnerGateway, client: NodePoolClient, ann: Account
) -> None:
    own = ann.username.removeprefix("user-")
    for task_id in (f"{own}-train", f"{own}-train-2", f"{own}-test"):
        ann.submit(DATA, task_id)
    job_id = f"{own}-job"
    submit_array(ann, job_id, 3)
    assert client.select([f"{own}-train"]).tasks == (f"{own}-train",)
    assert client.select([f"{own}-train-", f"{own}-te", f"{own}-test"]).tasks == (
        f"{own}-train-2",
        f"{own}-test",
    )
    # A job, and not its three tasks, which are named in whole.
    assert client.select([f"{own}-j"]).jobs == (job_id,)
    assert client.select([f"{job_id}.2"]).tasks == (f"{job_id}.2",)
    with pytest.raises(RefusedError, match=f"several ids: {own}-train, {own}-train-2") as several:
        client.select([f"{own}-tr"[:-1] + "ra"])
    assert "write more of it" in several.value.hint
    with NodePoolClient(f"127.0.0.1:{gateway.port}", token=gateway.someone().token) as stranger:
        for foreign in (f"{own}-train", f"{own}-te", job_id):
            with pytest.raises(MissingError, match=r"there is no task .* of yours"):
                stranger.select([foreign])
    with pytest.raises(MissingError, match="at least 4 characters"):
        client.select([own[:3]])
    for bad in ("", "../etc", "-x", "a b", "a\x1b[2J", "x" * 129, "t~1", "é" * 5):
        with pytest.raises(RefusedError, match="no beginning of one"):
            client.select([bad])
    for neither in ([], {}), (["x"], {"k": "v"}):
        with pytest.raises(RefusedError, match="name tasks, or give labels"):
            client.select(*neither)  # type: ignore[arg-type]


def test_names_have_bounds_on_the_wire(ann: Account) -> None:
    for names in (["a"] * 1001, ["a\x00b"], ["/"]):
        request = pb.ResolveIdsRequest(names=names)
        code, _ = refused(
            lambda: ann.stubs.tasks.ResolveIds(request, metadata=ann.metadata, timeout=CALL_SECONDS)  # noqa: B023
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT


# -- waiting ---------------------------------------------------------------------------------------------
def test_the_ends_of_many_come_through_one_stream(
    gateway: InnerGateway, client: NodePoolClient, ann: Account
) -> None:
    mine = [ann.submit(DATA) for _ in range(3)]
    job_id = new_job_id()
    submit_array(ann, job_id, 2)
    end(gateway, mine[1], TaskState.FAILED, 7)
    found = client.ends(*mine, jobs=[job_id], timeout_seconds=60)
    first = next(found)
    assert isinstance(first, TaskInfo)
    assert (first.task_id, first.exit_code) == (mine[1], 7)
    with ThreadPoolExecutor(1) as thread:
        rest = thread.submit(list, found)
        end(gateway, mine[0], TaskState.SUCCEEDED, 0)
        end(gateway, mine[2], TaskState.STOPPED)
        for index, code in ((0, -9), (1, 3)):
            end(gateway, f"{job_id}.{index}", TaskState.FAILED, code)
        others = rest.result(60)
    assert {each.task_id for each in others if isinstance(each, TaskInfo)} == {mine[0], mine[2]}
    (job,) = (each for each in others if isinstance(each, JobInfo))
    assert (job.counts, job.worst_exit_code) == ({TaskState.FAILED: 2}, 137)
    # What has ended is told at once.
    assert len(list(client.ends(*mine, jobs=[job_id]))) == 4


def test_who_waits_outlasts_a_gateway_that_comes_back(gateway: InnerGateway, ann: Account) -> None:
    task_id = ann.submit(DATA)
    with (
        NodePoolClient(f"127.0.0.1:{gateway.port}", token=ann.token) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        waits = thread.submit(lambda: list(client.ends(task_id, timeout_seconds=60)))
        wait_until(lambda: gateway.gateway.events._watchers.get(task_id), "the task is watched")
        gateway.restart()
        end(gateway, task_id, TaskState.SUCCEEDED, 0)
        (found,) = waits.result(60)
    assert found.final


def test_what_cannot_be_waited_for_is_told(
    gateway: InnerGateway, client: NodePoolClient, ann: Account
) -> None:
    task_id = ann.submit(DATA)
    with pytest.raises(NotYetError, match="1 of 1 have not ended in time"):
        list(client.ends(task_id, timeout_seconds=0))
    foreign = gateway.someone().submit(DATA)
    for ids, jobs in (([task_id, foreign], []), ([task_id], ["no-such-job"])):
        with pytest.raises(MissingError, match="of yours"):
            list(client.ends(*ids, jobs=jobs))
    for request in (
        pb.WatchTasksRequest(),
        pb.WatchTasksRequest(task_ids=[f"t{number}" for number in range(1001)]),
        pb.WatchTasksRequest(task_ids=["../x"]),
        pb.WatchTasksRequest(job_ids=["a\n"]),
    ):
        code, _ = refused(
            lambda: ann.stubs.tasks.WatchTasks(request, metadata=ann.metadata, timeout=CALL_SECONDS)  # noqa: B023
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT


# -- the operator ----------------------------------------------------------------------------------------
def test_an_operator_sees_why_somebodys_task_waits_and_each_look_is_kept(
    gateway: InnerGateway, operator: Account, ann: Account
) -> None:
    task_id = ann.submit(
        DATA, arguments=["--secret"], environment={"E": "secret"}, labels={"k": ann.username}
    )
    gateway.someone().submit(DATA)
    with NodePoolClient(f"127.0.0.1:{gateway.port}", token=operator.token) as client:
        found = list(client.operator.tasks(username=ann.username))
        assert [(task.task_id, task.owner) for task in found] == [(task_id, ann.username)]
        assert len(list(client.operator.tasks(limit=2))) == 2
        shown = client.operator.task(task_id)
        assert (shown.owner, shown.arguments, dict(shown.environment)) == (ann.username, (), {})
        assert "no node" in client.operator.explain(task_id).message
        with pytest.raises(MissingError, match="no user 'nobody-here'"):
            list(client.operator.tasks(username="nobody-here"))
        with pytest.raises(MissingError, match="admin tasks --job"):
            client.operator.task("no-such-task")
    assert [(action, subject) for action, subject, _ in acts(gateway, operator)] == [
        ("list-tasks", ann.username), ("list-tasks", ""), ("show-task", task_id), ("explain-task", task_id),
    ]  # fmt: skip
    assert acts(gateway, operator)[2][2] == {"owner": ann.username}


def test_output_is_not_the_operators_where_nobody_said_so(
    gateway: InnerGateway, operator: Account, ann: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = ann.submit(DATA)
    ask = operator.stubs.admin.GetUserTaskLogs
    request = pb.UserTaskRequest(task_id=task_id, reason="it was asked for")
    code, words = refused(lambda: ask(request, metadata=operator.metadata, timeout=CALL_SECONDS))
    assert (code, "ADMIN_READS_LOGS" in words) == (grpc.StatusCode.PERMISSION_DENIED, True)
    assert acts(gateway, operator) == []
    monkeypatch.setitem(gateway.gateway.settings.__dict__, "admin_reads_logs", True)  # it is frozen
    code, words = refused(
        lambda: ask(pb.UserTaskRequest(task_id=task_id), metadata=operator.metadata, timeout=CALL_SECONDS)
    )
    assert (code, "say why" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert ask(request, metadata=operator.metadata, timeout=CALL_SECONDS).success
    told = {"owner": ann.username, "reason": "it was asked for"}
    assert acts(gateway, operator) == [("read-task-logs", task_id, told)]


def test_an_operators_stop_is_kept_with_its_reason_or_neither_is(
    gateway: InnerGateway, operator: Account, ann: Account
) -> None:
    task_id = ann.submit(DATA)
    stop = operator.stubs.admin.StopUserTask
    request = pb.UserTaskRequest(task_id=task_id, reason="it fills the queue")
    assert "is being stopped" in stop(request, metadata=operator.metadata, timeout=CALL_SECONDS).message
    assert ann.detail(task_id).state == "STOPPED"
    assert "operator" in ann.detail(task_id).reason
    assert "nothing was changed" in stop(request, metadata=operator.metadata, timeout=CALL_SECONDS).message
    told = {"owner": ann.username, "reason": "it fills the queue"}
    assert acts(gateway, operator) == [("stop-task", task_id, told)]


def test_the_owner_is_told_who_stopped_what_ran(gateway: InnerGateway, operator: Account) -> None:
    for first, words in ((False, "stopped by the pool's operator"), (True, "stopped by its owner")):
        running = gateway.running(gateway.someone(), DATA)
        owner = running.account
        if first:
            assert owner.stop(running.task_id).success
        request = pb.UserTaskRequest(task_id=running.task_id, reason="x")
        operator.stubs.admin.StopUserTask(request, metadata=operator.metadata, timeout=CALL_SECONDS)
        assert owner.detail(running.task_id).stop_requested
        end = running.end(outcome=pb.ATTEMPT_OUTCOME_STOPPED, reason="stopped by its owner")
        owner.stubs.nodes.FinishAttempt(iter([end]), metadata=owner.metadata, timeout=CALL_SECONDS)
        detail = owner.detail(running.task_id)
        assert (detail.state, detail.reason) == ("STOPPED", words)


def test_nobody_else_is_an_operator(gateway: InnerGateway, ann: Account) -> None:
    task_id = gateway.someone().submit(DATA)
    admin = ann.stubs.admin
    one = pb.UserTaskRequest(task_id=task_id, reason="curious")
    for call, request in (
        (admin.ListUserTasks, pb.ListUserTasksRequest()),
        (admin.ShowUserTask, one),
        (admin.ExplainUserTask, one),
        (admin.GetUserTaskLogs, one),
        (admin.StopUserTask, one),
    ):
        code, _ = refused(lambda: call(request, metadata=ann.metadata, timeout=CALL_SECONDS))  # type: ignore[operator]  # noqa: B023
        assert code is grpc.StatusCode.PERMISSION_DENIED
