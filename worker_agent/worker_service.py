"""The WorkerNodeService that an agent serves to its own owner, on a loopback port.

The pool does not call it: it sends work through the node's queue. Whoever calls must show the secret
that the agent keeps in its data folder, readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc

from nodepool.domain.errors import InvalidPackageError, NodePoolError
from nodepool.domain.ids import check_task_id
from nodepool.domain.tasks.states import Outcome
from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc
from worker_agent.attempt_job import EnrolmentTerms
from worker_agent.execution import DEFAULT_MEMORY_BYTES, Execution, Job, judge
from worker_agent.runners.base import Runner, RunRefusedError
from worker_agent.runners.sandbox import attempt_slug
from worker_agent.unpacking import Unpacker

SECRET_FILE = "worker-secret"  # noqa: S105  a file's name
_SECRET_BYTES = 32
_MESSAGE_BYTES = 100 << 20
_THREADS = 8
_MAX_LOCAL_RUNS = 2
_LOCAL_RUN_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """What the service needs of the agent. `find` and `stop` are about attempts of the pool."""

    node_id: str
    runner: Runner
    unpacker: Unpacker
    runs_dir: Path
    discard: Callable[[Path], None]
    terms: Callable[[], EnrolmentTerms]
    find: Callable[[str], list[str]]
    stop: Callable[[str], None]


@dataclass(slots=True)
class WorkerService(rpc.WorkerNodeServiceServicer):
    node: LocalNode
    secret: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _local: dict[str, Execution] = field(default_factory=dict)
    _closed: bool = False

    def close(self) -> None:
        """Ends the runs that its owner has here; nothing new is begun afterwards."""
        with self._lock:
            self._closed = True
            executions = list(self._local.values())
        for execution in executions:
            execution.stop()

    def ExecuteTask(  # noqa: N802  the protocol's name
        self, request: pb.ExecuteTaskRequest, context: grpc.ServicerContext
    ) -> pb.ExecuteTaskResponse:
        """Runs the ZIP here and answers with its result; the task is not the pool's."""
        self._authenticate(context)
        if request.node_id not in {"", self.node.node_id}:
            context.abort(grpc.StatusCode.NOT_FOUND, f"this node is {self.node.node_id}")
        try:
            check_task_id(request.task_id)
            return self._run(request, context)
        except InvalidPackageError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except RunRefusedError as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        except NodePoolError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the node's disk or system failed: {error.strerror}"
            )

    def StopTaskExecution(  # noqa: N802
        self, request: pb.StopTaskExecutionRequest, context: grpc.ServicerContext
    ) -> pb.StopTaskExecutionResponse:
        self._authenticate(context)
        with self._lock:
            execution = self._local.get(request.task_id)
        attempts = self.node.find(request.task_id)
        if execution is not None:
            execution.stop()
        for attempt_id in attempts:
            self.node.stop(attempt_id)
        if execution is None and not attempts:
            context.abort(grpc.StatusCode.NOT_FOUND, "that task does not run here")
        return pb.StopTaskExecutionResponse(success=True, message="the task is being stopped")

    def ReportRunningStatus(  # noqa: N802
        self, request: pb.RunningStatusRequest, context: grpc.ServicerContext
    ) -> pb.RunningStatusResponse:
        self._authenticate(context)
        with self._lock:
            runs = request.task_id in self._local
        runs = runs or bool(self.node.find(request.task_id))
        return pb.RunningStatusResponse(success=runs, message="running here" if runs else "not running here")

    def ReportOutput(  # noqa: N802
        self,
        request: pb.ReportOutputRequest,  # noqa: ARG002
        context: grpc.ServicerContext,
    ) -> pb.StatusResponse:
        self._authenticate(context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "nodes send output, they take none; ask the gateway")

    def _run(self, request: pb.ExecuteTaskRequest, context: grpc.ServicerContext) -> pb.ExecuteTaskResponse:
        terms = self.node.terms()
        # A name of its own: the pool may know a task of the same id.
        attempt_id = f"{request.task_id}:local-{uuid.uuid4().hex[:8]}"
        job = Job(
            attempt_id=attempt_id,
            task_id=request.task_id,
            node_id=self.node.node_id,
            memory_bytes=DEFAULT_MEMORY_BYTES,
            cpus=1.0,
            gpu=False,
            image=terms.default_image,
            network=False,
            max_run_seconds=_LOCAL_RUN_SECONDS,
        )
        folder = self.node.runs_dir / attempt_slug(attempt_id)
        execution = Execution(
            self.node.runner, self.node.unpacker, job, terms.limits, folder, self.node.discard
        )
        self._enter(request.task_id, execution, context)
        try:
            with tempfile.TemporaryFile() as package:
                package.write(request.task_zip)
                package.flush()
                done = execution.run(package.fileno(), lambda: None)
            outcome, reason = judge(done.end)
            path = folder / "result.zip"
            execution.pack(done, outcome, reason, path)
            return pb.ExecuteTaskResponse(
                success=outcome is Outcome.SUCCEEDED, message=reason, result=path.read_bytes()
            )
        finally:
            with self._lock:
                del self._local[request.task_id]
            with contextlib.suppress(OSError):
                execution.clean()

    def _enter(self, task_id: str, execution: Execution, context: grpc.ServicerContext) -> None:
        with self._lock:
            if self._closed:
                problem = "the node is shutting down"
            elif task_id in self._local:
                problem = "that task runs here already"
            elif len(self._local) >= _MAX_LOCAL_RUNS:
                problem = "enough runs of the node's owner are running here"
            else:
                self._local[task_id] = execution
                return
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)

    def _authenticate(self, context: grpc.ServicerContext) -> None:
        if not _shows(self.secret, context.invocation_metadata()):
            _refuse(context)


def _shows(secret: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    expected = f"Bearer {secret}".encode()
    shown = [
        value.encode() if isinstance(value, str) else value
        for key, value in metadata or ()
        if key == "authorization"
    ]
    return any(hmac.compare_digest(value, expected) for value in shown)


def _refuse(context: grpc.ServicerContext) -> NoReturn:
    context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"this node answers its owner only: send 'authorization: Bearer' with the content of {SECRET_FILE} "
        "in the agent's data folder; tasks of the pool go through its gateway",
    )
    raise AssertionError("abort raises")


def read_or_make_secret(data_dir: Path) -> str:
    path = data_dir / SECRET_FILE
    try:
        secret = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        secret = ""
    if len(secret) >= _SECRET_BYTES:
        return secret
    secret = secrets.token_hex(_SECRET_BYTES)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret)
    return secret


class _OwnerOnly(grpc.ServerInterceptor):
    """Refuses who shows no secret before a byte of the message is read: who else reaches loopback could
    have a hundred MiB of each call kept."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        call: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if _shows(self._secret, call.invocation_metadata):
            return continuation(call)
        # One that takes a stream of messages, and asks for none.
        return grpc.stream_unary_rpc_method_handler(lambda _, context: _refuse(context))


def serve(service: WorkerService, port: int) -> tuple[grpc.Server, int]:
    """On loopback. Returns the server, started, and its port. Raises RuntimeError when the port is taken."""
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, "worker-service"),
        options=[
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=_THREADS,
        interceptors=[_OwnerOnly(service.secret)],
    )
    rpc.add_WorkerNodeServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound
