"""A worker that knows only the wire contract: it registers, is called, and speaks for its tasks.

Nothing of our generated code and no field from 100 up is used. What it does with a call, a test says.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from tests.support.tasks import package
from tests.support.wire import contract

CALL_SECONDS = 20.0
_STATUS = {"success": "1 b", "message": "2 s"}
_MESSAGES: dict[str, dict[str, str]] = {
    "LoginRequest": {"username": "1 s", "password": "2 s"},
    "LoginResponse": {**_STATUS, "token": "3 s"},
    "RegisterWorkerNodeRequest": {
        "node_id": "1 s", "hostname": "2 s", "cpu_cores": "3 i", "memory_gb": "4 i", "cpu_score": "5 i",
        "gpu_score": "6 i", "gpu_memory_gb": "7 i", "location": "8 s", "port": "9 i", "gpu_name": "12 s",
        "docker_status": "13 s",
    },
    "StatusResponse": _STATUS,
    "ReportStatusRequest": {"node_id": "1 s", "status_message": "2 s"},
    # Of workers of a later generation.
    "LaterReportStatusRequest": {
        "node_id": "1 s", "status_message": "2 s", "cpu_usage": "3 d", "memory_usage": "4 d",
        "gpu_usage": "5 d", "gpu_memory_usage": "6 d", "location": "7 s", "docker_status": "8 s",
    },
    "StoreOutputRequest": {"task_id": "1 s", "output": "2 s"},
    "StoreLogsRequest": {"node_id": "1 s", "task_id": "2 s", "logs": "3 s", "timestamp": "4 l"},
    "StoreResultRequest": {"task_id": "1 s", "result_zip": "2 y"},
    "ReturnTaskResultRequest": {"task_id": "1 s", "result_zip": "2 y"},
    "ReturnTaskResultResponse": _STATUS,
    "TaskCompletedRequest": {"task_id": "1 s", "node_id": "2 s", "success": "3 b"},
    "ReportOutputRequest": {"node_id": "1 s", "task_id": "2 s", "output": "3 s"},
    "RunningStatusRequest": {"node_id": "1 s", "task_id": "2 s"},
    "RunningStatusResponse": {**_STATUS, "cpt_reward": "3 l"},
    "ExecuteTaskRequest": {
        "node_id": "1 s", "task_id": "2 s", "task_zip": "3 y", "cpu": "4 i", "gpu": "5 i", "memory_gb": "6 i",
        "gpu_memory_gb": "7 i",
    },
    "ExecuteTaskResponse": {**_STATUS, "result": "3 y"},
    "StopTaskExecutionRequest": {"task_id": "1 s"},
    "StopTaskExecutionResponse": _STATUS,
}  # fmt: skip
# method -> service, request, response
_METHODS = {
    "Login": ("UserService", "LoginRequest", "LoginResponse"),
    "RegisterWorkerNode": ("NodeManagerService", "RegisterWorkerNodeRequest", "StatusResponse"),
    "ReportStatus": ("NodeManagerService", "ReportStatusRequest", "StatusResponse"),
    "LaterReportStatus": ("NodeManagerService", "LaterReportStatusRequest", "StatusResponse"),
    "StoreOutput": ("MasterNodeService", "StoreOutputRequest", "StatusResponse"),
    "StoreLogs": ("MasterNodeService", "StoreLogsRequest", "StatusResponse"),
    "StoreResult": ("MasterNodeService", "StoreResultRequest", "StatusResponse"),
    "ReturnTaskResult": ("MasterNodeService", "ReturnTaskResultRequest", "ReturnTaskResultResponse"),
    "TaskCompleted": ("MasterNodeService", "TaskCompletedRequest", "StatusResponse"),
    "ReportOutput": ("WorkerNodeService", "ReportOutputRequest", "StatusResponse"),
    "ReportRunningStatus": ("WorkerNodeService", "RunningStatusRequest", "RunningStatusResponse"),
    "ExecuteTask": ("WorkerNodeService", "ExecuteTaskRequest", "ExecuteTaskResponse"),
    "StopTaskExecution": ("WorkerNodeService", "StopTaskExecutionRequest", "StopTaskExecutionResponse"),
}
_TYPES = contract(_MESSAGES)
_SERVED = ("ExecuteTask", "StopTaskExecution", "ReportRunningStatus")

# What a test does with a call: the fields of the answer, or raw bytes.
Handler = Callable[[Any, grpc.ServicerContext], "dict[str, Any] | bytes"]


class WireWorker:
    """One node, whose id is its owner's name. `asked` and `metadata` keep what it was called with."""

    def __init__(self, address: str, username: str, password: str) -> None:
        self.node_id = username
        self.handlers: dict[str, Handler] = {
            "StopTaskExecution": lambda *_: {"success": True},
            "ReportRunningStatus": lambda request, _: {"success": request.task_id in self.runs},
        }
        self.asked: dict[str, list[Any]] = {name: [] for name in _SERVED}
        self.metadata: dict[str, str] = {}
        self.runs: set[str] = set()
        self.port = 0
        self._channel = grpc.insecure_channel(address)
        self.token = ""
        self._server: grpc.Server | None = None
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.token = self.call("Login", username=username, password=password).token

    # -- it is called --------------------------------------------------------------------------------
    def serve(self, *options: tuple[str, int]) -> WireWorker:
        """With gRPC's own bound on messages, 4 MiB, where no option says otherwise."""
        methods = {name: self._method(name) for name in _SERVED}
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), *options])
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("nodepool.WorkerNodeService", methods),)
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def _method(self, name: str) -> Any:
        _, request, response = _METHODS[name]

        def call(asked: Any, context: grpc.ServicerContext) -> bytes:
            self.asked[name].append(asked)
            self.metadata |= {str(key): str(value) for key, value in context.invocation_metadata()}
            answer = self.handlers[name](asked, context)
            return answer if isinstance(answer, bytes) else _TYPES[response](**answer).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(call, request_deserializer=_TYPES[request].FromString)

    # -- it calls ------------------------------------------------------------------------------------
    def call(self, method: str, **fields: Any) -> Any:
        service, request, response = _METHODS[method]
        metadata = [("authorization", f"Bearer {self.token}")] if self.token else []
        stub = self._channel.unary_unary(
            f"/nodepool.{service}/{method.removeprefix('Later')}",
            request_serializer=_TYPES[request].SerializeToString,
            response_deserializer=_TYPES[response].FromString,
        )
        return stub(_TYPES[request](**fields), metadata=metadata, timeout=CALL_SECONDS)

    def register(self, hostname: str = "127.0.0.1", port: int = 0, **facts: Any) -> WireWorker:
        """And reports its status from then on, as existing workers do."""
        self.register_only(hostname, port, **facts)
        self.in_background(self._report)
        return self

    def register_only(self, hostname: str = "127.0.0.1", port: int = 0, **facts: Any) -> WireWorker:
        answer = self._register(hostname, port, facts)
        assert answer.success, answer.message
        return self

    def report(self) -> Any:
        return self.call("ReportStatus", node_id=self.node_id, status_message="Idle")

    def report_as_later(self, **fields: Any) -> Any:
        """As a worker of a later generation."""
        return self.call("LaterReportStatus", node_id=self.node_id, status_message="Idle", **fields)

    def register_refused(self, hostname: str, port: int = 0) -> str:
        """What people are shown of it."""
        answer = self._register(hostname, port, {})
        assert not answer.success
        return str(answer.message)

    def _register(self, hostname: str, port: int, facts: dict[str, Any]) -> Any:
        facts = {"cpu_cores": 4, "memory_gb": 8, "cpu_score": 4000, "location": "亞洲", **facts}
        return self.call(
            "RegisterWorkerNode", node_id=self.node_id, hostname=hostname, port=port or self.port, **facts
        )

    def _report(self) -> None:
        while not self._ended.wait(0.3):
            try:
                self.report()
            except grpc.RpcError:
                continue  # the pool may be down in a test

    def in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- it works ------------------------------------------------------------------------------------
    def run(self, task_id: str, task_zip: bytes) -> tuple[bool, str, bytes]:
        """Runs main.py for real: how it ended, its output, and a result ZIP."""
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(io.BytesIO(task_zip)) as archive:
                archive.extractall(folder)
            ended = subprocess.run(
                [sys.executable, "main.py"],
                cwd=folder,
                env={"TASK_ID": task_id, "PYTHONUNBUFFERED": "1"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            files: dict[str, str | bytes] = {
                path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()
            }
        output = ended.stdout + ended.stderr
        result = package({**files, "execution_log.txt": "Status", "task_logs.txt": output})
        return ended.returncode == 0, output, result

    def accept_and_work(self, request: Any, _context: grpc.ServicerContext) -> dict[str, Any]:
        """Answers at once, works beside, and speaks for the task as existing workers do."""
        task_id = request.task_id

        def work() -> None:
            self.call("StoreLogs", node_id=self.node_id, task_id=task_id, logs="the container was started")
            success, output, result = self.run(task_id, request.task_zip)
            self.call("StoreLogs", node_id=self.node_id, task_id=task_id, logs=output.rstrip("\n"))
            self.call("ReturnTaskResult", task_id=task_id, result_zip=result)
            self.call("TaskCompleted", task_id=task_id, node_id=self.node_id, success=success)

        def guarded() -> None:
            with contextlib.suppress(grpc.RpcError):  # refused: the task was given away meanwhile
                work()
            self.runs.discard(task_id)

        self.runs.add(task_id)
        self.in_background(guarded)
        return {"success": True, "message": "accepted"}

    def fall_silent(self) -> None:
        """It goes on serving, and reports its status no more."""
        self._ended.set()

    def close(self) -> None:
        self._ended.set()
        if self._server is not None:
            self._server.stop(0).wait(60)
        for thread in self._threads:
            thread.join(30)
        self._channel.close()
