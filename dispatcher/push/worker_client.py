"""Calls to workers that serve WorkerNodeService. They are strangers: no secret goes there, and nothing
that comes back is believed to be what it should be. Knows nothing of tasks' states.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from dispatcher.stranger_names import RESOLVING_ERRORS, Resolve, addresses_in, not_resolved
from nodepool.domain.errors import NodePoolError
from nodepool.domain.nodes.push_addresses import Address, Network, choose, literal
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.pool_result import printable
from nodepool.keepalive import grpc_ping_options
from nodepool.protocol import nodepool_pb2 as pb

M = TypeVar("M", bound=Message)

_SERVICE = "/nodepool.WorkerNodeService"
_MIB = 1 << 20
_MB_PER_GB = 1024
# One core of the reference: a task that asks for nothing is to end all the same.
_LEAST_CPU_SCORE = 1000
# Servers that nobody has told otherwise take more than one ping in five minutes for abuse. Sooner than that
# the kernel notices what nobody confirms, and whoever asks the node for its runs notices the rest.
_PING_SECONDS, _PONG_SECONDS = 330.0, 8.0


class WorkerError(NodePoolError):
    """The worker did not answer as a worker does."""

    def is_exhausted(self, sent_bytes: int) -> bool:
        """Too much for one of the two sides. Servers made with tonic have another code for it, and name the
        size of what they were sent."""
        if self.code is grpc.StatusCode.OUT_OF_RANGE:
            return str(sent_bytes) in str(self)
        return self.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


async def address_of(
    host: str, *, peer: str, networks: Sequence[Network], names: Executor, lookup: Resolve, seconds: float
) -> Address:
    """The checked address to connect to; the name is asked for once, and never again.

    Raises ConflictError or InvalidInputError with the reason why there is none.
    """
    address = literal(host)
    if address is not None:
        return choose([address], peer=peer, networks=networks)
    try:
        texts = await asyncio.wait_for(
            asyncio.get_running_loop().run_in_executor(names, lookup, host), seconds
        )
        found = addresses_in(texts)
    except RESOLVING_ERRORS as error:
        raise not_resolved(host, error) from None
    return choose(found, peer=peer, networks=networks)


@asynccontextmanager
async def connected(address: Address, port: int, *, max_message_mb: int) -> AsyncIterator[Any]:
    """A connection to that address and to no other, whatever the environment says of proxies."""
    target = f"ipv6:[{address}]:{port}" if isinstance(address, IPv6Address) else f"ipv4:{address}:{port}"
    channel = grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.max_send_message_length", max_message_mb * _MIB),
            ("grpc.max_receive_message_length", max_message_mb * _MIB),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.use_local_subchannel_pool", 1),
            *grpc_ping_options(_PING_SECONDS, _PONG_SECONDS),
        ],
    )
    try:
        yield channel
    finally:
        await channel.close()


def execute_request(node_id: str, task_id: str, package: bytes, claim: Claim) -> pb.ExecuteTaskRequest:
    """What is reserved for the run is what it may use, and not less than a core and a GiB: workers take 0 for
    next to nothing."""
    return pb.ExecuteTaskRequest(
        node_id=node_id,
        task_id=task_id,
        task_zip=package,
        cpu=max(_LEAST_CPU_SCORE, claim.cpu_score),
        gpu=claim.gpu_score,
        memory_gb=max(1, -(-claim.memory_mb // _MB_PER_GB)),
        gpu_memory_gb=claim.gpu_memory_gb,
    )


async def execute(channel: Any, request: pb.ExecuteTaskRequest) -> pb.ExecuteTaskResponse:
    """Returns when the worker answers, which may be when the run has ended. Raises WorkerError."""
    messages = [request.SerializeToString()]
    del request

    # On the wire one message is one message. As a stream its bytes are let go once they are sent, and
    # not only when a call that is held for an hour has ended.
    async def once() -> AsyncIterator[bytes]:
        yield messages.pop()

    call = channel.stream_unary(f"{_SERVICE}/ExecuteTask", None, None)(once())
    return await _answer(call, pb.ExecuteTaskResponse)


async def stop(channel: Any, task_id: str, seconds: float) -> pb.StopTaskExecutionResponse:
    request = pb.StopTaskExecutionRequest(task_id=task_id).SerializeToString()
    call = channel.unary_unary(f"{_SERVICE}/StopTaskExecution", None, None)(request, timeout=seconds)
    return await _answer(call, pb.StopTaskExecutionResponse)


async def ask(channel: Any, node_id: str, task_id: str, seconds: float) -> pb.RunningStatusResponse:
    request = pb.RunningStatusRequest(node_id=node_id, task_id=task_id).SerializeToString()
    call = channel.unary_unary(f"{_SERVICE}/ReportRunningStatus", None, None)(request, timeout=seconds)
    return await _answer(call, pb.RunningStatusResponse)


async def _answer(call: Awaitable[bytes], kind: type[M]) -> M:
    try:
        data = await call
    except grpc.aio.AioRpcError as error:
        raise WorkerError(_words(error), error.code()) from None
    try:
        return kind.FromString(data)
    except DecodeError:
        raise WorkerError("its answer is not of the protocol") from None


def _words(error: grpc.aio.AioRpcError) -> str:
    details = printable(error.details() or "")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"it cannot be reached, or speaks no gRPC: {details}"
    return f"it answered {error.code().name}: {details}"
