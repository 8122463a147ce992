"""Tasks as a client that knows only the protocol sees them: packages, uploads, watches."""

from __future__ import annotations

import io
import time
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc

from benchmarks.pool import BenchmarkError, Pool
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.protocol.nodepool_pb2_grpc import MasterNodeServiceStub

TASK_SECONDS = 60.0
_POLL_SECONDS = 0.01
_FINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True, slots=True)
class Timeline:
    """Of one task, milliseconds since `UploadTask` was sent."""

    accepted: float
    started: float  # the node has claimed it, by the gateway's clock
    first_line: float
    ended: float


def package(script: str, entry: str = "main.py") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, script)
    return buffer.getvalue()


class Tasks:
    """A logged-in user's connection. Close it after use."""

    def __init__(self, pool: Pool) -> None:
        self._channel = grpc.insecure_channel(pool.address, options=[("grpc.enable_http_proxy", 0)])
        self._stub = MasterNodeServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {pool.token}"),)

    def close(self) -> None:
        self._channel.close()

    def upload(self, task_zip: bytes, timeout_seconds: float = TASK_SECONDS) -> str:
        task_id = str(uuid.uuid4())
        request = pb.UploadTaskRequest(task_id=task_id, task_zip=task_zip)
        answer = self._stub.UploadTask(request, metadata=self._metadata, timeout=timeout_seconds)
        if not answer.success:
            raise BenchmarkError(f"an upload was refused: {answer.message}")
        return task_id

    def timeline(self, task_zip: bytes) -> Timeline:
        """One task from its upload to its end, watched from the moment it is accepted."""
        epoch, began = time.time(), time.perf_counter()
        task_id = self.upload(task_zip)
        accepted = time.perf_counter()
        line, started_at = 0.0, 0.0
        detail = pb.TaskDetail()
        request = pb.WatchTaskRequest(task_id=task_id)
        for event in self._stub.WatchTask(request, metadata=self._metadata, timeout=TASK_SECONDS):
            if event.WhichOneof("event") == "output":
                line = line or time.perf_counter()
            else:
                detail = event.state
                started_at = detail.started_at or started_at
        ended = time.perf_counter()
        if detail.state != "SUCCEEDED" or not line:
            raise BenchmarkError(f"a task ended as {detail.state or 'nothing'}: {detail.reason}")
        started = (started_at - epoch) * 1e3
        return Timeline((accepted - began) * 1e3, started, (line - began) * 1e3, (ended - began) * 1e3)

    def run_many_seconds(self, task_zip: bytes, count: int, uploads_at_once: int) -> float:
        """From the first upload to the last task that is seen to have ended well."""
        with ThreadPoolExecutor(uploads_at_once) as threads:
            began = time.perf_counter()
            uploads = [threads.submit(self.upload, task_zip) for _ in range(count)]
            for upload in uploads:
                self.wait_success(upload.result())
            return time.perf_counter() - began

    def wait_success(self, task_id: str) -> None:
        deadline = time.monotonic() + TASK_SECONDS
        request = pb.PollTaskStatusRequest(task_id=task_id)
        while True:
            answer = self._stub.PollTaskStatus(request, metadata=self._metadata, timeout=TASK_SECONDS)
            if answer.status == "COMPLETED":
                return
            if answer.detail.state in _FINAL or time.monotonic() > deadline:
                raise BenchmarkError(f"a task is {answer.detail.state}: {answer.detail.reason}")
            time.sleep(_POLL_SECONDS)
