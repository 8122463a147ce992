"""A client that knows only the wire contract: its own messages by number and type, and raw calls.

Nothing of our generated code is used: what an existing client has compiled from its own copy of the
protocol must do.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import grpc
import pytest

from tests.support.pool import SETTINGS, TestPool
from tests.support.tasks import new_task_id, script, unpacked
from tests.support.waiting import wait_until
from tests.support.wire import contract

STATUS = {"success": "1 b", "message": "2 s"}
# name -> field -> "number type", as in the contract: s string, i int32, l int64, y bytes, b bool,
# d double, *x repeated x, *Name repeated message.
MESSAGES: dict[str, dict[str, str]] = {
    "RegisterRequest": {"username": "1 s", "password": "2 s"},
    "RegisterResponse": STATUS,
    "LoginRequest": {"username": "1 s", "password": "2 s"},
    "LoginResponse": {**STATUS, "token": "3 s"},
    "GetBalanceRequest": {"username": "1 s", "token": "2 s"},
    "GetBalanceResponse": {**STATUS, "balance": "3 l"},
    "UploadTaskRequest": {
        "task_id": "1 s", "task_zip": "2 y", "memory_gb": "3 i", "cpu_score": "4 i", "gpu_score": "5 i",
        "gpu_memory_gb": "6 i", "location": "7 s", "gpu_name": "8 s", "user_id": "9 s",
    },
    "UploadTaskResponse": STATUS,
    "PollTaskStatusRequest": {"task_id": "1 s"},
    "PollTaskStatusResponse": {"task_id": "1 s", "status": "2 s", "output": "3 *s", "message": "4 s"},
    "GetTaskLogsRequest": {"task_id": "1 s", "token": "2 s"},
    "GetTaskLogsResponse": {**STATUS, "logs": "3 s"},
    "GetTaskResultRequest": {"task_id": "1 s", "token": "2 s"},
    "GetTaskResultResponse": {**STATUS, "result_zip": "3 y"},
    "StopTaskRequest": {"task_id": "1 s", "token": "2 s"},
    "StopTaskResponse": STATUS,
    "GetAllTasksRequest": {"token": "1 s"},
    "TaskStatus": {
        "task_id": "1 s", "status": "2 s", "created_at": "3 s", "updated_at": "4 s", "assigned_node": "5 s",
    },
    "GetAllTasksResponse": {**STATUS, "tasks": "3 *TaskStatus"},
    "HealthCheckRequest": {},
    "HealthCheckResponse": {"healthy": "1 b", "message": "2 s"},
    "GetNodeListRequest": {},
    "WorkerNodeInfo": {
        "node_id": "1 s", "hostname": "2 s", "cpu_cores": "3 i", "memory_gb": "4 i", "status": "5 s",
        "last_heartbeat": "6 d", "cpu_score": "7 i", "gpu_score": "8 i", "gpu_memory_gb": "9 i",
        "location": "10 s", "port": "11 i", "gpu_name": "12 s",
    },
    "GetNodeListResponse": {**STATUS, "nodes": "3 *WorkerNodeInfo"},
}  # fmt: skip
SERVICE_OF = {
    "Register": "UserService", "Login": "UserService", "GetBalance": "UserService",
    "HealthCheck": "NodeManagerService", "GetNodeList": "NodeManagerService",
}  # fmt: skip


class WireClient:
    """`client.call("Login", username=…)`; with `in_metadata` the token goes there, as some clients do."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._types = contract(MESSAGES)
        self.token = ""

    def call(self, method: str, *, in_metadata: bool = False, **fields: Any) -> Any:
        service = SERVICE_OF.get(method, "MasterNodeService")
        request = self._types[f"{method}Request"](**fields)
        metadata = [("authorization", f"Bearer {self.token}")] if in_metadata else []
        answer = self._channel.unary_unary(
            f"/nodepool.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=self._types[f"{method}Response"].FromString,
        )
        return answer(request, metadata=metadata, timeout=60)

    def wait_for(self, task_id: str, status: str) -> Any:
        def reached() -> Any:
            answer = self.call("PollTaskStatus", in_metadata=True, task_id=task_id)
            return answer if answer.status == status else None

        return wait_until(reached, f"{task_id} is {status}", 60)


@pytest.fixture(scope="module")
def client(pool: TestPool) -> WireClient:
    client = WireClient(pool.stubs().channel)
    name, password = f"existing-{secrets.token_hex(4)}", secrets.token_hex(8)
    assert client.call("Register", username=name, password=password).success
    refused = client.call("Login", username=name, password="not the password")
    assert (refused.success, refused.token, bool(refused.message)) == (False, "", True)
    answer = client.call("Login", username=name, password=password)
    assert answer.success
    client.token = answer.token
    balance = client.call("GetBalance", username=name, token=client.token)
    assert (balance.success, balance.balance) == (True, int(SETTINGS["NEWCOMER_BALANCE_CPT"]))
    return client


def test_it_uploads_polls_reads_logs_and_downloads(client: WireClient) -> None:
    task = new_task_id()
    source = "open('made.txt', 'w').write('made')\nprint('first line')\nprint('second line')"
    needs = {"memory_gb": 1, "cpu_score": 100, "gpu_score": 0, "gpu_memory_gb": 0}
    accepted = client.call(
        "UploadTask", in_metadata=True, task_id=task, task_zip=script(source), location="亞洲",
        gpu_name="Any", user_id="whoever", **needs,
    )  # fmt: skip
    assert accepted.success
    answer = client.wait_for(task, "COMPLETED")
    assert answer.task_id == task
    assert list(answer.output) == ["first line", "second line"]
    logs = client.call("GetTaskLogs", task_id=task, token=client.token)
    assert (logs.success, logs.logs) == (True, "first line\nsecond line\n")
    result = client.call("GetTaskResult", task_id=task, token=client.token)
    assert result.success
    files = unpacked(result.result_zip)
    assert set(files) == {"main.py", "made.txt", "execution_log.txt", "task_logs.txt"}
    assert files["made.txt"] == b"made"
    assert files["task_logs.txt"] == b"first line\nsecond line\n"
    listed = {entry.task_id: entry for entry in client.call("GetAllTasks", token=client.token).tasks}
    assert listed[task].status == "COMPLETED"
    assert listed[task].assigned_node
    assert 0 < int(listed[task].created_at) <= int(listed[task].updated_at)


def test_it_stops_a_task_and_gets_what_there_is(client: WireClient) -> None:
    task = new_task_id()
    source = "import time\nopen('half.txt', 'w').write('half')\nprint('begun', flush=True)\ntime.sleep(3600)"
    client.call("UploadTask", in_metadata=True, task_id=task, task_zip=script(source), location="Any")
    client.wait_for(task, "RUNNING")
    wait_until(
        lambda: "begun" in client.call("GetTaskLogs", task_id=task, token=client.token).logs,
        "the task has begun",
        60,
    )
    early = client.call("GetTaskResult", task_id=task, token=client.token)
    assert (early.success, early.result_zip) == (False, b"")
    assert "not finished yet" in early.message
    assert client.call("StopTask", task_id=task, token=client.token).success
    client.wait_for(task, "STOPPED")
    files = unpacked(client.call("GetTaskResult", task_id=task, token=client.token).result_zip)
    assert files["half.txt"] == b"half"
    assert {"task_stopped.txt", "execution_log.txt", "task_logs.txt"} <= set(files)


def test_it_lists_nodes(pool: TestPool, client: WireClient) -> None:
    assert client.call("HealthCheck").healthy
    answer = client.call("GetNodeList", in_metadata=True)
    (node,) = answer.nodes
    assert answer.success
    assert node.node_id == pool.agents[0].node_id
    assert node.status == "ONLINE"
    assert node.location == "Asia"
    assert node.cpu_cores > 0
    assert node.cpu_score > 0
    assert 0 < node.last_heartbeat <= time.time() + 60
