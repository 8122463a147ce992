"""What is somebody else's, and what does not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.hostile import refused
from tests.support.pool import TestPool
from tests.support.tasks import new_task_id, script

COUNTED = script("import os\nprint('ran as', os.environ['TASK_ID'])")
NOBODYS_TASK, NOBODYS_NODE = "task_of_nobody", "nobody/nothing"
PERMISSION_DENIED, NOT_FOUND = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
REFUSED_TO_STRANGERS = {PERMISSION_DENIED, NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}

Call = Callable[[Account, str, str], object]

# What an owner asks of a task of theirs, by (caller, task id, node id).
OF_OWNERS: dict[str, Call] = {
    "PollTaskStatus": lambda user, task, _: user.poll(task),
    "GetTaskResult": lambda user, task, _: user.result(task),
    "StopTask": lambda user, task, _: user.stop(task),
    "DownloadResult": lambda user, task, _: user.stubs.tasks.DownloadResult(
        pb.DownloadResultRequest(task_id=task), metadata=user.metadata
    ),
    "WatchTask": lambda user, task, _: user.stubs.tasks.WatchTask(
        pb.WatchTaskRequest(task_id=task), metadata=user.metadata
    ),
    "StopTaskExecution": lambda user, task, _: user.stubs.workers.StopTaskExecution(
        pb.StopTaskExecutionRequest(task_id=task), metadata=user.metadata
    ),
}
# What only the owner of the node that has the task may say, in the words of existing workers.
OF_WORKERS: dict[str, Call] = {
    "StoreOutput": lambda user, task, _: user.stubs.tasks.StoreOutput(
        pb.StoreOutputRequest(task_id=task, output="injected"), metadata=user.metadata
    ),
    "StoreLogs": lambda user, task, node: user.stubs.tasks.StoreLogs(
        pb.StoreLogsRequest(task_id=task, node_id=node, logs="injected"), metadata=user.metadata
    ),
    "StoreResult": lambda user, task, _: user.stubs.tasks.StoreResult(
        pb.StoreResultRequest(task_id=task, result_zip=COUNTED), metadata=user.metadata
    ),
    "ReturnTaskResult": lambda user, task, _: user.stubs.tasks.ReturnTaskResult(
        pb.ReturnTaskResultRequest(task_id=task, result_zip=COUNTED), metadata=user.metadata
    ),
    "TaskCompleted": lambda user, task, node: user.stubs.tasks.TaskCompleted(
        pb.TaskCompletedRequest(task_id=task, node_id=node, success=True), metadata=user.metadata
    ),
    "ReportOutput": lambda user, task, node: user.stubs.workers.ReportOutput(
        pb.ReportOutputRequest(task_id=task, node_id=node, output="injected"), metadata=user.metadata
    ),
    "ReportRunningStatus": lambda user, task, node: user.stubs.workers.ReportRunningStatus(
        pb.RunningStatusRequest(task_id=task, node_id=node), metadata=user.metadata
    ),
}
# What only the owner of a node may say of it.
OF_NODE_OWNERS: dict[str, Call] = {
    "ReportStatus": lambda user, _, node: user.stubs.nodes.ReportStatus(
        pb.ReportStatusRequest(node_id=node, status_message="fine"), metadata=user.metadata
    ),
    "EnrollAgent": lambda user, _, node: user.stubs.nodes.EnrollAgent(
        pb.EnrollAgentRequest(node_id=node), metadata=user.metadata
    ),
    "SetNodeDraining": lambda user, _, node: user.stubs.nodes.SetNodeDraining(
        pb.SetNodeDrainingRequest(node_id=node, draining=True), metadata=user.metadata
    ),
    "DeregisterNode": lambda user, _, node: user.stubs.nodes.DeregisterNode(
        pb.DeregisterNodeRequest(node_id=node), metadata=user.metadata
    ),
    "ExecuteTask": lambda user, _, node: user.stubs.workers.ExecuteTask(
        pb.ExecuteTaskRequest(task_id=new_task_id(), node_id=node, task_zip=COUNTED), metadata=user.metadata
    ),
}


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture(scope="module")
def stranger(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture(scope="module")
def running(pool: TestPool, user: Account) -> Iterator[str]:
    """A task that runs as long as the module's tests."""
    task = user.submit(script("import time\nprint('begun', flush=True)\ntime.sleep(3600)"))
    pool.wait(lambda: "begun" in user.logs(task), "the task has begun")
    yield task
    assert user.stop(task).success
    user.wait_for(task, "STOPPED")


@pytest.fixture(scope="module")
def ended(user: Account) -> str:
    task = user.submit(COUNTED)
    user.wait_for(task, "COMPLETED")
    return task


@pytest.mark.parametrize("name", OF_OWNERS)
def test_a_task_of_somebody_else_is_refused(
    stranger: Account, user: Account, running: str, ended: str, name: str
) -> None:
    for task in (running, ended):
        code, message = refused(lambda: OF_OWNERS[name](stranger, task, ""))  # noqa: B023
        assert code is NOT_FOUND
        assert "of yours" in message
    assert not user.detail(running).stop_requested


def test_tasks_of_somebody_else_are_not_listed(stranger: Account, ended: str) -> None:
    answer = stranger.stubs.tasks.GetAllTasks(pb.GetAllTasksRequest(), metadata=stranger.metadata)
    assert ended not in {task.task_id for task in answer.tasks}


@pytest.mark.parametrize("name", OF_OWNERS | OF_WORKERS)
def test_an_unknown_task_is_not_found(user: Account, name: str) -> None:
    code, message = refused(lambda: (OF_OWNERS | OF_WORKERS)[name](user, NOBODYS_TASK, NOBODYS_NODE))
    assert code is NOT_FOUND
    assert NOBODYS_TASK in message


@pytest.mark.parametrize("name", OF_NODE_OWNERS)
def test_an_unknown_node_is_not_found(user: Account, name: str) -> None:
    code, message = refused(lambda: OF_NODE_OWNERS[name](user, "", NOBODYS_NODE))
    assert code is NOT_FOUND
    assert NOBODYS_NODE in message


@pytest.mark.parametrize("name", OF_WORKERS)
@pytest.mark.parametrize("who", ["the task's owner", "a stranger"])
def test_nobody_but_the_nodes_owner_speaks_for_a_running_task(
    pool: TestPool, user: Account, stranger: Account, running: str, name: str, who: str
) -> None:
    caller = stranger if who == "a stranger" else user
    node = pool.agents[0].node_id
    code, _ = refused(lambda: OF_WORKERS[name](caller, running, node))
    assert code in REFUSED_TO_STRANGERS
    assert user.poll(running).status == "RUNNING"
    assert "injected" not in user.logs(running)
    assert not user.detail(running).has_result


@pytest.mark.parametrize("name", OF_WORKERS)
def test_nobody_changes_a_task_that_has_ended(
    pool: TestPool, user: Account, stranger: Account, ended: str, name: str
) -> None:
    before = user.result(ended)
    for caller in (stranger, pool.owner):
        code, _ = refused(lambda: OF_WORKERS[name](caller, ended, pool.agents[0].node_id))  # noqa: B023
        assert code in REFUSED_TO_STRANGERS
    assert user.poll(ended).status == "COMPLETED"
    assert user.result(ended) == before
    assert "injected" not in user.logs(ended)


@pytest.mark.parametrize("name", OF_NODE_OWNERS)
def test_a_node_of_somebody_else_is_refused_and_goes_on(
    pool: TestPool, user: Account, stranger: Account, running: str, name: str
) -> None:
    code, message = refused(lambda: OF_NODE_OWNERS[name](stranger, "", pool.agents[0].node_id))
    assert code is NOT_FOUND
    assert "of yours" in message
    (node,) = (node for node in user.node_list() if node.node_id == pool.agents[0].node_id)
    assert (node.status, node.draining) == ("ONLINE", False)
    assert user.poll(running).status == "RUNNING"


def test_a_node_id_of_somebody_else_cannot_be_registered(
    pool: TestPool, user: Account, stranger: Account
) -> None:
    taken = pool.agents[0].node_id
    for node_id in (taken, f"{user.username}/mine", user.username):
        code, message = refused(lambda: register_node(stranger, node_id))  # noqa: B023
        assert code is PERMISSION_DENIED
        assert node_id in message
    (node,) = (node for node in user.node_list() if node.node_id == taken)
    assert (node.owner, node.hostname == "evil.example") == (pool.owner.username, False)


@pytest.mark.parametrize(
    "node_id", ["", "*", "a b", "a/b/c", "/a", "a/", "../a", "a:b", "x" * 65, "a\n", "a\0b", "n[1]", "(a"]
)
def test_a_node_id_that_is_none_is_refused(stranger: Account, node_id: str) -> None:
    code, message = refused(lambda: register_node(stranger, node_id))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "node_id" in message


def register_node(account: Account, node_id: str) -> pb.StatusResponse:
    request = pb.RegisterWorkerNodeRequest(
        node_id=node_id, hostname="evil.example", cpu_cores=1, memory_gb=1, kind="agent"
    )
    return account.stubs.nodes.RegisterWorkerNode(request, metadata=account.metadata)


def test_a_task_for_a_node_of_mine_runs_there(pool: TestPool) -> None:
    owner, node = pool.owner, pool.agents[0].node_id
    request = pb.ExecuteTaskRequest(task_id=new_task_id(), node_id=node, task_zip=COUNTED)
    assert owner.stubs.workers.ExecuteTask(request, metadata=owner.metadata).success
    assert owner.wait_for(request.task_id, "COMPLETED").detail.assigned_node == node
