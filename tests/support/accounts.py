"""People at the pool, as an existing client would be one: generated stubs, nothing of our client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc

from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from tests.support.tasks import new_task_id
from tests.support.waiting import wait_until

FINAL_WORDS = frozenset({"COMPLETED", "FAILED", "STOPPED"})
CALL_SECONDS = 60.0


@dataclass(frozen=True)
class Stubs:
    """The services over one channel."""

    channel: grpc.Channel

    @property
    def users(self) -> rpc.UserServiceStub:
        return rpc.UserServiceStub(self.channel)

    @property
    def nodes(self) -> rpc.NodeManagerServiceStub:
        return rpc.NodeManagerServiceStub(self.channel)

    @property
    def tasks(self) -> rpc.MasterNodeServiceStub:
        return rpc.MasterNodeServiceStub(self.channel)

    @property
    def admin(self) -> rpc.AdminServiceStub:
        return rpc.AdminServiceStub(self.channel)

    @property
    def workers(self) -> rpc.WorkerNodeServiceStub:
        return rpc.WorkerNodeServiceStub(self.channel)


@dataclass(frozen=True)
class Account:
    """A logged-in user with short forms of the calls that most tests make."""

    stubs: Stubs
    username: str
    password: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def submit(self, zip_bytes: bytes, task_id: str = "", **needs: Any) -> str:
        """Uploads a package and gives its task id; `needs` are further fields of UploadTaskRequest.

        A `location` is meant strictly, as our own client says it.
        """
        needs = {**({"location_mode": "strict"} if "location" in needs else {}), **needs}
        request = pb.UploadTaskRequest(task_id=task_id or new_task_id(), task_zip=zip_bytes, **needs)
        answer = self.stubs.tasks.UploadTask(request, metadata=self.metadata, timeout=CALL_SECONDS)
        assert answer.success, answer.message
        return request.task_id

    def poll(self, task_id: str) -> pb.PollTaskStatusResponse:
        request = pb.PollTaskStatusRequest(task_id=task_id)
        return self.stubs.tasks.PollTaskStatus(request, metadata=self.metadata, timeout=CALL_SECONDS)

    def detail(self, task_id: str) -> pb.TaskDetail:
        return self.poll(task_id).detail

    def wait_for(self, task_id: str, *words: str, timeout: float = 60.0) -> pb.PollTaskStatusResponse:
        """Until the status is one of these words of the wire; a final one that is not fails at once."""

        def reached() -> pb.PollTaskStatusResponse | None:
            answer = self.poll(task_id)
            if answer.status in words:
                return answer
            assert answer.status not in FINAL_WORDS, f"{task_id} ended {answer.status}: {answer}"
            return None

        found = wait_until(reached, f"{task_id} is {' or '.join(words)}", timeout)
        assert found is not None
        return found

    def wait_for_end(self, task_id: str, timeout: float = 60.0) -> pb.PollTaskStatusResponse:
        return self.wait_for(task_id, *FINAL_WORDS, timeout=timeout)

    def logs(self, task_id: str) -> str:
        request = pb.GetTaskLogsRequest(task_id=task_id, token=self.token)
        return self.stubs.tasks.GetTaskLogs(request, metadata=self.metadata, timeout=CALL_SECONDS).logs

    def result(self, task_id: str) -> bytes:
        """The result ZIP; AssertionError while there is none."""
        request = pb.GetTaskResultRequest(task_id=task_id, token=self.token)
        answer = self.stubs.tasks.GetTaskResult(request, metadata=self.metadata, timeout=CALL_SECONDS)
        assert answer.success, answer.message
        return answer.result_zip

    def stop(self, task_id: str) -> pb.StopTaskResponse:
        request = pb.StopTaskRequest(task_id=task_id, token=self.token)
        return self.stubs.tasks.StopTask(request, metadata=self.metadata, timeout=CALL_SECONDS)

    def node_list(self) -> list[pb.WorkerNodeInfo]:
        answer = self.stubs.nodes.GetNodeList(
            pb.GetNodeListRequest(include_offline=True), metadata=self.metadata, timeout=CALL_SECONDS
        )
        return list(answer.nodes)


def log_in(stubs: Stubs, username: str, password: str) -> Account:
    answer = stubs.users.Login(pb.LoginRequest(username=username, password=password), timeout=CALL_SECONDS)
    assert answer.success, answer.message
    return Account(stubs, username, password, answer.token)


def register(stubs: Stubs, username: str, password: str) -> Account:
    answer = stubs.users.Register(
        pb.RegisterRequest(username=username, password=password), timeout=CALL_SECONDS
    )
    assert answer.success, answer.message
    return log_in(stubs, username, password)
