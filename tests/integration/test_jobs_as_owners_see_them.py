"""Jobs and lists as owners see them: what is held back has not ended for them, and who stopped what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import pytest
from sqlalchemy import update

from hivemind import JobInfo, NodePoolClient, NotYetError, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import jobs as job_store, replicas
from nodepool.stores.sql.tables import tasks, users
from tests.support.accounts import CALL_SECONDS, Account, log_in
from tests.support.arrays import PACKAGE, job_of, new_job_id, submit_array
from tests.support.flows import Step, counts_of, submit_flow
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.valkey import TestValkey


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


def change(gateway: InnerGateway, task_id: str, values: Mapping[str, Any]) -> None:
    query = update(tasks).where(tasks.c.id == task_id).values(values)
    gateway.gateway.database.write(lambda c: c.execute(query))


# -- results that are held back -------------------------------------------------------------------------
def hold_back(gateway: InnerGateway, task_id: str, state: TaskState, exit_code: int) -> None:
    """It has ended for the pool, and its owner is told so when its result is checked."""
    now = gateway.gateway.clock()
    values = {
        "state": state, "exit_code": exit_code, "reason": f"it ended with {exit_code}", "started_at": 2.0,
        "finished_at": now, "held_back_until": now + 3600, "result_attempt": f"{task_id}:1",
        "result_bytes": 100, "verification": "pending", "attempt_number": 1,
    }  # fmt: skip
    change(gateway, task_id, values)


def everything_told(ann: Account, job_id: str) -> dict[str, Any]:
    """What lists and jobs say of a job's tasks, in any state that can be asked for."""
    stub, metadata = ann.stubs.tasks, ann.metadata

    def of_job(**asked: Any) -> list[pb.TaskStatus]:
        request = pb.ListJobTasksRequest(job_id=job_id, **asked)
        return list(stub.ListJobTasks(request, metadata=metadata, timeout=CALL_SECONDS).tasks)

    def of_user(**asked: Any) -> list[pb.TaskStatus]:
        request = pb.ListTasksRequest(filter=pb.TaskFilter(**asked))
        return list(stub.ListTasks(request, metadata=metadata, timeout=CALL_SECONDS).tasks)

    def ids(found: list[pb.TaskStatus]) -> list[str]:
        return [it.task_id for it in found]

    (whole,) = stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=CALL_SECONDS).jobs
    every = pb.GetAllTasksRequest(token=ann.token)
    return {
        "job": job_of(ann, job_id),
        "jobs": whole,
        "lists": [
            of_job(), of_user(), of_user(job_id=job_id),
            list(stub.GetAllTasks(every, metadata=metadata, timeout=CALL_SECONDS).tasks),
        ],
        "by state": {
            word: (ids(of_job(states=[word])), ids(of_user(states=[word]))) for word in TaskState.__members__
        },
    }  # fmt: skip


def test_what_is_held_back_is_of_a_task_that_runs_wherever_it_is_told(
    gateway: InnerGateway, client: NodePoolClient, ann: Account
) -> None:
    job_id = new_job_id()
    submit_array(ann, job_id, 3)
    hold_back(gateway, f"{job_id}.0", TaskState.FAILED, 3)
    hold_back(gateway, f"{job_id}.1", TaskState.SUCCEEDED, 0)
    told = everything_told(ann, job_id)
    assert dict(told["job"].job.counts) == dict(told["jobs"].counts) == {"RUNNING": 2, "QUEUED": 1}
    assert [(it.state, it.tasks) for it in told["job"].reasons] == [("QUEUED", 1)]
    assert told["job"].job.ended_at == 0
    two = {f"{job_id}.0", f"{job_id}.1"}
    assert {state: (set(a), set(b)) for state, (a, b) in told["by state"].items() if a or b} == {
        "RUNNING": (two, two), "QUEUED": ({f"{job_id}.2"}, {f"{job_id}.2"}),
    }  # fmt: skip
    # No list says more of a task than its own status does.
    for found in told["lists"]:
        assert len(found) == 3
        for row in found:
            own = ann.poll(row.task_id)
            for name in ("arguments", "environment", "attempts", "replica_records"):
                own.detail.ClearField(name)
            assert (row.status, row.detail) == (own.status, own.detail)
    done = {"state": TaskState.SUCCEEDED, "exit_code": 0, "finished_at": 5.0}
    change(gateway, f"{job_id}.2", done)
    with pytest.raises(NotYetError):
        list(client.ends(jobs=[job_id], timeout_seconds=0))
    with pytest.raises(NotYetError):
        list(client.watch_job(job_id, timeout_seconds=0))
    assert gateway.gateway.database.read(lambda c: job_store.is_unfinished(c, job_id))
    again = pb.ResubmitJobRequest(job_id=job_id, new_job_id=new_job_id(), states=["FAILED"])
    code, words = refused(
        lambda: ann.stubs.tasks.ResubmitJob(again, metadata=ann.metadata, timeout=CALL_SECONDS)
    )
    assert (code, "nothing to do again" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    # Who stops the job does not want to wait for the checks, as who stops the task.
    assert client.stop_job(job_id) == 2
    shown = client.job(job_id)
    assert shown.counts == {TaskState.FAILED: 1, TaskState.SUCCEEDED: 2}
    assert [(it.reason, it.first_index) for it in shown.reasons] == [("it ended with 3", 0)]
    (ended,) = client.ends(jobs=[job_id])
    assert isinstance(ended, JobInfo)
    assert ended.worst_exit_code == 3


def test_steps_of_a_flow_count_what_is_held_back_as_running(gateway: InnerGateway, ann: Account) -> None:
    job_id = new_job_id()
    submit_flow(ann, job_id, [Step(name="a", count=2), Step(name="b", needs=["a"])])
    hold_back(gateway, f"{job_id}.a.0", TaskState.FAILED, 1)
    told = job_of(ann, job_id)
    assert counts_of(told) == {"a": {"QUEUED": 1, "RUNNING": 1}, "b": {"WAITING": 1}}
    assert {it.state for it in told.reasons} == {"QUEUED"}


def test_results_are_told_alike_whichever_is_checked(gateway: InnerGateway, ann: Account) -> None:
    """Whoever sent them cannot tell the one that was drawn from the others by any list."""
    job_id = new_job_id()
    submit_array(ann, job_id, 2)
    for index in range(2):
        hold_back(gateway, f"{job_id}.{index}", TaskState.SUCCEEDED, 0)
    drawn = f"{job_id}.0"
    before = everything_told(ann, job_id)
    now = gateway.gateway.clock()
    added = gateway.gateway.database.write(lambda c: replicas.add_runs_of(c, drawn, [1], now))
    assert added == [f"{drawn}~1"]
    assert everything_told(ann, job_id) == before


# -- who stopped what -----------------------------------------------------------------------------------
def test_a_job_says_who_stopped_which_of_its_tasks(
    gateway: InnerGateway, operator: Account, ann: Account
) -> None:
    job_id = new_job_id()
    submit_array(ann, job_id, 4)
    ran = {
        "state": TaskState.STOPPED, "reason": "stopped by its owner", "reason_code": "stopped",
        "stopped_by_operator": True, "attempt_number": 1,
    }  # fmt: skip
    change(gateway, f"{job_id}.3", ran)
    request = pb.UserTaskRequest(task_id=f"{job_id}.2", reason="it fills the queue")
    operator.stubs.admin.StopUserTask(request, metadata=operator.metadata, timeout=CALL_SECONDS)
    stop = pb.StopJobRequest(job_id=job_id)
    assert ann.stubs.tasks.StopJob(stop, metadata=ann.metadata, timeout=CALL_SECONDS).stopped == 2
    assert {(it.code, it.reason, it.tasks, it.first_index) for it in job_of(ann, job_id).reasons} == {
        ("stopped_by_operator", "stopped by the pool's operator", 2, 2),
        ("stopped_waiting", "stopped by its owner before it ran", 2, 0),
    }


def test_whose_account_is_blocked_was_stopped_by_an_operator(
    gateway: InnerGateway, operator: Account, ann: Account
) -> None:
    job_id = new_job_id()
    submit_array(ann, job_id, 2)
    for is_blocked in (True, False):
        block = pb.SetUserBlockedRequest(username=ann.username, blocked=is_blocked, reason="x")
        operator.stubs.admin.SetUserBlocked(block, metadata=operator.metadata, timeout=CALL_SECONDS)
    later = log_in(gateway.stubs, ann.username, ann.password)
    (why,) = job_of(later, job_id).reasons
    assert (why.reason, why.tasks) == ("stopped by the pool's operator", 2)


# -- images ---------------------------------------------------------------------------------------------
def test_who_has_an_account_is_told_which_images_tasks_may_name(
    gateway: InnerGateway, client: NodePoolClient, ann: Account
) -> None:
    told = client.images()
    assert told == gateway.settings.image_allow_list
    ann.submit(PACKAGE, image=told[0])
