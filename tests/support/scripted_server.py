"""A real gRPC server that answers what a test tells it to, and keeps what it was asked."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from nodepool.protocol import nodepool_pb2 as pb, nodepool_pb2_grpc as rpc

SERVICES = (
    rpc.UserServiceServicer,
    rpc.NodeManagerServiceServicer,
    rpc.MasterNodeServiceServicer,
    rpc.AdminServiceServicer,
)
# Where a test gives no handler for these, the server is a pool of before there were any.
_NEWER = frozenset({"ListTasks", "ResolveIds", "WatchTasks"})


def token_of(username: str, **claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": username, **claims}).encode()).decode().rstrip("=")
    return f"header.{payload}.signature"


class Scripted:
    """A server whose every method is answered by the handler a test gives it; keeps what it was asked."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}
        self.asked: dict[str, list[Any]] = {}
        self.metadata: dict[str, list[dict[str, str]]] = {}
        self.port = 0
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def on(self, method: str, handler: Callable[..., Any]) -> None:
        self.handlers[method] = handler

    def answers(self, method: str, *answers: Any) -> None:
        """One answer a call; the last is repeated. A status code is a refusal."""
        waiting = list(answers)

        def handler(_request: Any, context: grpc.ServicerContext) -> Any:
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, f"the server says {answer.name}")
            return answer

        self.on(method, handler)

    def start(
        self,
        credentials: grpc.ServerCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """On the port of the last start, if there was one; with TLS when there are credentials."""
        self._server = grpc.server(
            ThreadPoolExecutor(8),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20), *options],
        )
        for base in SERVICES:
            getattr(rpc, f"add_{base.__name__}_to_server")(self._servicer(base), self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        else:
            self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        assert self.port
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            assert self._server.stop(0).wait(60)
            self._server = None

    def _servicer(self, base: type) -> Any:
        def method(name: str) -> Callable[..., Any]:
            def call(_self: Any, request: Any, context: grpc.ServicerContext) -> Any:
                if not hasattr(request, "DESCRIPTOR"):
                    request = _Recorder(request)
                self.asked.setdefault(name, []).append(request)
                self.metadata.setdefault(name, []).append(
                    {key: str(value) for key, value in context.invocation_metadata()}
                )
                if name not in self.handlers and name in _NEWER:
                    context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not known here")
                return self.handlers[name](request, context)

            return call

        names = [name for name in vars(base) if name[0].isupper()]
        return type("Scripted" + base.__name__, (base,), {name: method(name) for name in names})()


class _Recorder:
    """A request stream that remembers what came through it."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self.seen: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for message in self._source:
            self.seen.append(message)
            yield message


def state(word: str, **fields: Any) -> pb.WatchTaskResponse:
    return pb.WatchTaskResponse(state=pb.TaskDetail(state=word, **fields))


def output(attempt: int, offset: int, data: bytes) -> pb.WatchTaskResponse:
    chunk = pb.OutputChunk(attempt_number=attempt, offset=offset, data=data, next_offset=offset + len(data))
    return pb.WatchTaskResponse(output=chunk)


def in_chunks(data: bytes, size: int = 100) -> Iterator[pb.DownloadResultResponse]:
    for begin in range(0, len(data), size):
        yield pb.DownloadResultResponse(
            total_bytes=0 if begin else len(data), chunk=data[begin : begin + size]
        )
