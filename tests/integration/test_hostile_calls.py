"""Strangers and users who send too much, too slowly or never read: a gateway process with low bounds.

What it may take of memory is measured on the process itself.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account, Stubs, register
from tests.support.gateway import GatewayProcess
from tests.support.hostile import incompressible, refused
from tests.support.http2 import RawClient, framed
from tests.support.tasks import new_task_id, script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

MIB = 1 << 20
UPLOAD = "/nodepool.MasterNodeService/UploadTask"
STREAM = "/nodepool.MasterNodeService/UploadTaskStream"
BALANCE = "/nodepool.UserService/GetBalance"
LOGIN = "/nodepool.UserService/Login"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# What the process may grow by, whatever is tried: its allocator, threads and code that is used first.
GROWTH = 96 * MIB
STREAMS, CALLS_OF_ACCOUNT, CALLS_OF_ADDRESS, CONNECTIONS = 6, 12, 80, 40


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    valkey_server.emptied()
    process = GatewayProcess(
        tmp_path_factory.mktemp("gateway"),
        valkey_server,
        GRPC_STALL_SECONDS="1",
        GRPC_MEMORY_MB="16",
        GRPC_MAX_CALLS_PER_ADDRESS=str(CALLS_OF_ADDRESS),
        GRPC_MAX_CALLS_PER_ACCOUNT=str(CALLS_OF_ACCOUNT),
        GRPC_MAX_STREAMS_PER_ACCOUNT=str(STREAMS),
        GRPC_MAX_CONNECTIONS_PER_ADDRESS=str(CONNECTIONS),
    )
    yield process.start_serving()
    process.close()


@pytest.fixture
def account(gateway: GatewayProcess) -> Account:
    return register(gateway.stubs, f"user-{secrets.token_hex(4)}", "a good password")


@contextmanager
def _small(gateway: GatewayProcess) -> Iterator[None]:
    """The gateway's memory does not grow by more than GROWTH meanwhile, and it answers afterwards."""
    process, most, over = psutil.Process(gateway.process.pid), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert most[0] - before < GROWTH, f"it grew by {(most[0] - before) / MIB:.0f} MiB"
    gateway.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)


@contextmanager
def _channels(gateway: GatewayProcess, count: int) -> Iterator[list[Stubs]]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options) for _ in range(count)]
    yield [Stubs(channel) for channel in channels]
    for channel in channels:
        channel.close()


# -- before anybody is known -------------------------------------------------------------------------
def test_a_package_without_a_token_is_refused_before_it_is_read(gateway: GatewayProcess) -> None:
    request = pb.UploadTaskRequest(task_id="t", task_zip=bytes(40 * MIB))
    result = pb.StoreResultRequest(task_id="t", result_zip=bytes(40 * MIB))
    with _small(gateway), _channels(gateway, 8) as everybody:
        calls = [stubs.tasks.UploadTask.future(request, timeout=60) for stubs in everybody]
        calls += [stubs.tasks.StoreResult.future(result, timeout=60) for stubs in everybody]
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.parametrize("method", [BALANCE, LOGIN])
def test_a_call_that_carries_its_token_itself_takes_small_messages_only(
    gateway: GatewayProcess, method: str
) -> None:
    with _small(gateway), _channels(gateway, 6) as everybody:
        calls = [stubs.channel.unary_unary(method).future(bytes(60 * MIB), timeout=60) for stubs in everybody]
        codes = {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_compressed_message_is_not_unpacked(gateway: GatewayProcess, encoding: str) -> None:
    with _small(gateway), RawClient(gateway.port) as client:
        client.call(1, LOGIN, **({"grpc_encoding": encoding} if encoding else {}))
        client.data(1, b"\x01\xff\xff\xff\xff")
        assert client.push(1, 60 * MIB) < 1 * MIB
        wait_until(lambda: client.read(0.1) or 1 in client.ended, "the call is ended")


def test_messages_that_never_come_whole_end(gateway: GatewayProcess) -> None:
    with _small(gateway), RawClient(gateway.port) as client:
        streams = range(1, 61, 2)
        for stream in streams:
            client.call(stream, BALANCE)
            client.data(stream, framed(bytes(1000))[:500])
        wait_until(
            lambda: client.read(0.1) and not set(streams) - client.ended, "every call is ended", period=0.001
        )


def test_strangers_long_calls_are_few(gateway: GatewayProcess) -> None:
    with _channels(gateway, 20) as everybody:
        watches = [
            health_pb2_grpc.HealthStub(stubs.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            for stubs in everybody
        ]
        answers = [_first(watch) for watch in watches]
    assert 1 <= answers.count(True) <= 8
    # They end with their clients, and others can watch again.
    wait_until(lambda: _first(_watch(gateway)), "another one may watch")


def _watch(gateway: GatewayProcess) -> Iterator[health_pb2.HealthCheckResponse]:
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    call: Iterator[health_pb2.HealthCheckResponse] = stub.Watch(
        health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS
    )
    return call


def _first(watch: Iterator[health_pb2.HealthCheckResponse]) -> bool:
    """Whether it is answered; with what depends on how long this gateway has been without a dispatcher."""
    try:
        next(watch)
    except grpc.RpcError:
        return False
    return True


def test_who_does_not_read_is_cut_off(gateway: GatewayProcess) -> None:
    """The protocol's own description, asked for again and again and never read."""
    name = b"nodepool.proto"
    question = framed(b"\x1a" + bytes([len(name)]) + name)
    with _small(gateway), RawClient(gateway.port, window=1024) as client:
        client.call(1, REFLECTION)
        client.data(1, question * 50)
        wait_until(client.is_over, "the connection is ended")


def test_an_address_has_only_so_many_connections(gateway: GatewayProcess) -> None:
    clients = [RawClient(gateway.port) for _ in range(CONNECTIONS + 20)]
    try:
        wait_until(
            lambda: sum(not client.is_over() for client in clients) <= CONNECTIONS, "the rest are ended"
        )
        gateway.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
    finally:
        for client in clients:
            client.close()


# -- who is known ------------------------------------------------------------------------------------
def test_streams_that_stall_end_and_leave_room(gateway: GatewayProcess, account: Account) -> None:
    task = pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest(task_id=new_task_id()))
    with _small(gateway), RawClient(gateway.port) as client:
        streams = range(1, 61, 2)
        for stream in streams:
            client.call(stream, STREAM, account.token)
            client.data(stream, framed(task.SerializeToString()))
        wait_until(
            lambda: client.read(0.1) and not set(streams) - client.ended, "every call is ended", period=0.001
        )
    assert account.submit(script("print(1)"))


def test_of_one_account_only_so_many_streams_are_open(gateway: GatewayProcess, account: Account) -> None:
    request = pb.WatchTaskRequest(task_id=account.submit(script("print(1)")))
    watches = [
        account.stubs.tasks.WatchTask(request, metadata=account.metadata, timeout=CALL_SECONDS)
        for _ in range(STREAMS + 3)
    ]
    codes = [_code_of_first(watch) for watch in watches]
    assert codes.count(None) == STREAMS
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3
    # Everything else of the account goes on.
    assert account.poll(request.task_id).status == "PENDING"
    for watch in watches:
        watch.cancel()


def _code_of_first(watch: Any) -> grpc.StatusCode | None:
    try:
        next(watch)
    except grpc.RpcError:
        code: grpc.StatusCode = watch.code()
        return code
    return None


def test_small_calls_take_small_messages_also_of_who_is_known(
    gateway: GatewayProcess, account: Account
) -> None:
    request = pb.WatchTaskRequest(task_id="x" * 30 * MIB)
    with _channels(gateway, 1) as (stubs,):
        code, message = refused(lambda: stubs.tasks.WatchTask(request, metadata=account.metadata, timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "too large" in message


def test_packages_on_their_way_have_a_budget_and_small_ones_get_through(
    gateway: GatewayProcess, account: Account
) -> None:
    """Each is within its own limit; together they are more than the gateway's memory takes."""
    with _small(gateway):
        clients = [RawClient(gateway.port) for _ in range(10)]
        for client in clients:
            client.call(1, UPLOAD, account.token)
            client.data(1, framed(bytes(8 * MIB))[:5])
        pushers = [threading.Thread(target=client.push, args=(1, 7 * MIB)) for client in clients]
        for pusher in pushers:
            pusher.start()
        other = register(gateway.stubs, f"user-{secrets.token_hex(4)}", "a good password")
        assert other.submit(incompressible(64 << 10))
        for pusher in pushers:
            pusher.join()
        wait_until(lambda: any(1 in client.ended for client in clients), "some are ended")
        for client in clients:
            client.close()
