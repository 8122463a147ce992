"""Streams of messages count only when they are whole: an upload, and an attempt's end with its result."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused, upload_streamed
from tests.support.http2 import RawClient, framed
from tests.support.inner_gateway import InnerGateway, Running
from tests.support.tasks import new_task_id, package, script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

STREAM = "/nodepool.MasterNodeService/UploadTaskStream"
FINISH = "/nodepool.NodeManagerService/FinishAttempt"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
# All of it is within the window that the gateway gives, and a piece within a frame.
PIECE_BYTES, RANDOM_BYTES = 8 << 10, 50_000


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server)
    yield made
    made.close()


def _package() -> bytes:
    """In several pieces."""
    return package({"main.py": "print('hello')", "data": os.urandom(RANDOM_BYTES)})


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]


def _break_off(gateway: InnerGateway, method: str, account: Account, messages: list[Any], how: str) -> None:
    """Send these and not the word that it is all; afterwards the gateway has done with the call."""
    with RawClient(gateway.port) as client:
        client.call(1, method, account.token)
        for message in messages:
            client.data(1, framed(message.SerializeToString()))
        if how != "at once":
            wait_until(lambda: gateway.calls.count("all") == 1, "the call has arrived")
        if how == "reset":
            client.reset(1)
    wait_until(gateway.is_idle, "the gateway has done with the call")


@pytest.mark.parametrize("how", ["reset", "cut", "at once"])
@pytest.mark.parametrize("pieces", [0, 2, None])
@pytest.mark.parametrize("told", ["told", "of an older client"])
def test_an_upload_that_breaks_off_keeps_nothing(
    gateway: InnerGateway, how: str, pieces: int | None, told: str
) -> None:
    owner, data, before = gateway.someone(), _package(), gateway.packages()
    for _ in range(3):
        task = pb.UploadTaskRequest(task_id=new_task_id())
        if told == "told":
            task.package_bytes, task.package_sha256 = len(data), hashlib.sha256(data).hexdigest()
        messages = [pb.UploadTaskStreamRequest(task=task)]
        messages += [pb.UploadTaskStreamRequest(zip_chunk=piece) for piece in _pieces(data)[:pieces]]
        _break_off(gateway, STREAM, owner, messages, how)
        assert refused(lambda: owner.poll(task.task_id))[0] is grpc.StatusCode.NOT_FOUND  # noqa: B023
    assert gateway.packages() == before
    assert gateway.left_on_their_way() == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"package_bytes": 1}, "more came"),
        ({"package_bytes": 1 << 20}, "only"),
        ({"package_bytes": -1}, "package_bytes"),
        ({"package_sha256": "0" * 64}, "package_sha256"),
        ({"package_sha256": "the hash"}, "hexadecimal"),
    ],
    ids=str,
)
def test_an_upload_that_is_not_what_was_told_keeps_nothing_and_is_told(
    gateway: InnerGateway, told: dict[str, Any], words: str
) -> None:
    owner, before = gateway.someone(), gateway.packages()
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=_package(), **told)
    code, message = refused(lambda: upload_streamed(owner, request))
    assert (code, words in message) == (INVALID, True), message
    assert refused(lambda: owner.poll(request.task_id))[0] is grpc.StatusCode.NOT_FOUND
    assert gateway.packages() == before
    assert gateway.left_on_their_way() == []
    right = pb.UploadTaskRequest(task_id=request.task_id, task_zip=request.task_zip)
    right.package_bytes, right.package_sha256 = (
        len(right.task_zip),
        hashlib.sha256(right.task_zip).hexdigest().upper(),
    )
    assert upload_streamed(owner, right).success


def test_a_stream_is_refused_before_it_comes_where_its_task_cannot_be(gateway: InnerGateway) -> None:
    """What it costs to be refused is one small message."""
    owner, over = gateway.someone(), threading.Event()
    task = pb.UploadTaskRequest(task_id=new_task_id(), memory_gb=10**7, max_minutes=1000)

    def messages() -> Iterator[pb.UploadTaskStreamRequest]:
        yield pb.UploadTaskStreamRequest(task=task)
        over.wait(CALL_SECONDS)

    call = owner.stubs.tasks.UploadTaskStream
    try:
        code, _ = refused(lambda: call(messages(), metadata=owner.metadata, timeout=CALL_SECONDS))
    finally:
        over.set()
    assert code is grpc.StatusCode.FAILED_PRECONDITION


# -- ends of attempts --------------------------------------------------------------------------------
def _finish(running: Running, end: pb.FinishAttemptRequest, result: bytes = b"") -> pb.FinishAttemptResponse:
    messages = [end, *(pb.FinishAttemptRequest(result_chunk=piece) for piece in _pieces(result))]
    account = running.account
    return account.stubs.nodes.FinishAttempt(iter(messages), metadata=account.metadata, timeout=CALL_SECONDS)


def _assert_still_runs(gateway: InnerGateway, running: Running) -> None:
    assert running.account.detail(running.task_id).state == "RUNNING"
    assert gateway.gateway.files.result_size(running.attempt_id) == 0
    assert gateway.left_on_their_way() == []


@pytest.mark.parametrize("how", ["reset", "cut", "at once"])
def test_an_end_that_breaks_off_is_no_end(gateway: InnerGateway, how: str) -> None:
    result = package({"out": os.urandom(RANDOM_BYTES)})
    running = gateway.running(gateway.someone(), script("print(1)"))
    for end, pieces in ((running.end(result), 0), (running.end(result), 2), (running.end(), None)):
        messages = [end]
        if end.end.result_bytes:
            messages += [pb.FinishAttemptRequest(result_chunk=it) for it in _pieces(result)[:pieces]]
        _break_off(gateway, FINISH, running.account, messages, how)
        _assert_still_runs(gateway, running)
    # All of it, and not the word that it is.
    for _ in range(3):
        messages = [running.end(result)]
        messages += [pb.FinishAttemptRequest(result_chunk=it) for it in _pieces(result)]
        _break_off(gateway, FINISH, running.account, messages, how)
        _assert_still_runs(gateway, running)
    assert _finish(running, running.end(result), result).success
    assert running.account.result(running.task_id) == result


@pytest.mark.parametrize(
    "told",
    [{"result_bytes": 1}, {"result_bytes": 1 << 20}, {"result_sha256": "0" * 64}, {"result_sha256": ""}],
    ids=str,
)
def test_a_result_that_is_not_what_was_told_is_no_end(gateway: InnerGateway, told: dict[str, Any]) -> None:
    result = package({"out": os.urandom(RANDOM_BYTES)})
    running = gateway.running(gateway.someone(), script("print(1)"))
    code, _ = refused(lambda: _finish(running, running.end(result, **told), result))
    assert code is INVALID
    _assert_still_runs(gateway, running)
    assert _finish(running, running.end(result), result).success


def test_an_end_is_taken_also_while_there_is_too_much_to_compare(gateway: InnerGateway) -> None:
    """Its node waits for nothing: what is not compared needs no turn there."""
    result = package({"out": os.urandom(50_000)})
    node = gateway.someone()
    running = gateway.running(node, script("print(1)"))
    with gateway.full_of(node, gateway.someone()):
        assert _finish(running, running.end(result), result).success
        assert node.detail(running.task_id).state == "SUCCEEDED"


# -- nothing is left of calls ------------------------------------------------------------------------
def test_calls_that_are_opened_and_cancelled_leave_nothing_counted(gateway: InnerGateway) -> None:
    owner = gateway.someone()
    task_id = owner.submit(script("print(1)"))
    watch = pb.WatchTaskRequest(task_id=task_id)
    first = framed(pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest(task_id="t")).SerializeToString())
    watched = framed(watch.SerializeToString())
    for _ in range(3):
        with RawClient(gateway.port) as client:
            for stream in range(1, 121, 2):
                method, message = (
                    (STREAM, first) if stream % 4 == 1 else ("/nodepool.MasterNodeService/WatchTask", watched)
                )
                client.call(stream, method, owner.token)
                client.data(stream, message)
                if stream % 3:
                    client.reset(stream)
        wait_until(gateway.is_idle, "nothing is counted any more")
    assert owner.stop(task_id).success
