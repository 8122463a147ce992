"""Clients that do not read what they asked for, and large messages: they hold little, and they end."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nodepool.domain.trust.result_digest import OUTPUT_FILE
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.http2 import RawClient, framed
from tests.support.inner_gateway import InnerGateway, Running
from tests.support.tasks import package, script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

MIB = 1 << 20
MEMORY_MB, OUTPUT_BYTES = 8, 2 * MIB
TASKS, NODES = "/nodepool.MasterNodeService/", "/nodepool.NodeManagerService/"


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"),
        valkey_server,
        grpc_stall_seconds=1.0,
        grpc_memory_mb=MEMORY_MB,
        max_output_bytes=OUTPUT_BYTES,
    )
    yield made
    made.close()


def _ended(gateway: InnerGateway, output: bytes, more: bytes = b"") -> Running:
    """A task that ended with this output."""
    running = gateway.running(gateway.someone(), script("print(1)"))
    result = package({OUTPUT_FILE: output, "more": more})
    chunks = [result[at : at + MIB] for at in range(0, len(result), MIB)]
    sent = [running.end(result), *(pb.FinishAttemptRequest(result_chunk=it) for it in chunks)]
    account = running.account
    answer = account.stubs.nodes.FinishAttempt(iter(sent), metadata=account.metadata, timeout=CALL_SECONDS)
    assert answer.success
    return running


def _ask(gateway: InnerGateway, account: Account, method: str, request: bytes, count: int) -> list[RawClient]:
    """So many who ask, each on a line of its own, and read nothing."""
    clients = [RawClient(gateway.port, window=1024) for _ in range(count)]
    for client in clients:
        client.call(1, method, account.token)
        client.data(1, framed(request), last=True)
    return clients


def _are_ended(gateway: InnerGateway, clients: list[RawClient]) -> None:
    try:
        wait_until(lambda: all(client.is_over() for client in clients), "all of them are ended")
        wait_until(gateway.is_idle, "nothing of them is held")
    finally:
        for client in clients:
            client.close()


def test_watchers_that_do_not_read_hold_no_more_than_their_share(gateway: InnerGateway) -> None:
    rude, kind = _ended(gateway, os.urandom(OUTPUT_BYTES)), _ended(gateway, b"the output of another")
    budget = gateway.gateway.memory
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            most[0] = max(most[0], budget.held_bytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        request = pb.WatchTaskRequest(task_id=rude.task_id).SerializeToString()
        clients = _ask(gateway, rude.account, TASKS + "WatchTask", request, 6)
        wait_until(lambda: budget.held_bytes >= OUTPUT_BYTES, "they are given their output")
        events = kind.account.stubs.tasks.WatchTask(
            pb.WatchTaskRequest(task_id=kind.task_id), metadata=kind.account.metadata, timeout=CALL_SECONDS
        )
        assert b"".join(event.output.data for event in events) == b"the output of another"
        _are_ended(gateway, clients)
    finally:
        over.set()
        watcher.join()
    # And what the other account is given meanwhile.
    assert OUTPUT_BYTES <= most[0] <= budget.share_bytes + OUTPUT_BYTES
    # Who reads has all of it.
    events = rude.account.stubs.tasks.WatchTask(
        pb.WatchTaskRequest(task_id=rude.task_id), metadata=rude.account.metadata, timeout=CALL_SECONDS
    )
    assert sum(len(event.output.data) for event in events) == OUTPUT_BYTES


def test_who_does_not_read_a_result_or_a_package_is_cut_off(gateway: InnerGateway) -> None:
    ended = _ended(gateway, b"", os.urandom(MIB))
    request = pb.DownloadResultRequest(task_id=ended.task_id).SerializeToString()
    _are_ended(gateway, _ask(gateway, ended.account, TASKS + "DownloadResult", request, 12))
    running = gateway.running(gateway.someone(), package({"main.py": "", "data": os.urandom(MIB)}))
    claim = pb.ClaimAttemptRequest(attempt_id=running.attempt_id, node_id=running.node_id)
    _are_ended(gateway, _ask(gateway, running.account, NODES + "ClaimAttempt", claim.SerializeToString(), 12))
    again = running.account.stubs.nodes.ClaimAttempt(
        claim, metadata=running.account.metadata, timeout=CALL_SECONDS
    )
    assert sum(len(part.package_chunk) for part in again) > MIB


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        (b"\n" * OUTPUT_BYTES, [""] * 1000),
        (b"first\r\n" + b"x" * MIB, ["first", "x" * MIB]),
        (b"\xff" * 1000, ["\ufffd" * 1000]),
    ],
    ids=["only ends of lines", "a long line", "no text"],
)
def test_of_any_output_the_last_lines_are_told(
    gateway: InnerGateway, output: bytes, lines: list[str]
) -> None:
    ended = _ended(gateway, output)
    assert list(ended.account.poll(ended.task_id).output) == lines
    assert ended.account.logs(ended.task_id) == output.decode(errors="replace")


# -- large messages ----------------------------------------------------------------------------------
def test_a_message_of_millions_of_elements_is_refused(gateway: InnerGateway) -> None:
    rude = gateway.someone()
    raw = b"\xda\x06\x00" * MIB  # of compare_outputs
    ask: Any = gateway.channel.unary_unary(TASKS + "UploadTask")
    code, words = refused(lambda: ask(raw, metadata=rude.metadata, timeout=CALL_SECONDS))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "fewer" in words


def test_of_a_refused_message_nothing_stays(gateway: InnerGateway) -> None:
    rude = gateway.someone()
    raw = pb.AppendOutputRequest(attempt_id="x:1", node_id="n", data=bytes(2 * MIB)).SerializeToString()
    ask: Any = gateway.channel.unary_unary(NODES + "AppendOutput")
    gc.collect()
    others = [it for it in gc.get_objects() if type(it) is pb.AppendOutputRequest]
    gc.disable()  # the collector is no answer to a flood
    try:
        for _ in range(5):
            code, _ = refused(lambda: ask(raw, metadata=rude.metadata, timeout=CALL_SECONDS))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        wait_until(gateway.is_idle, "nothing of it is held")
        # The call of the last one may be at its very end; what only the collector finds stays for ever here.
        wait_until(lambda: not _kept_beside(others), "none of the messages is kept")
    finally:
        gc.enable()


def _kept_beside(others: list[pb.AppendOutputRequest]) -> bool:
    kept = (it for it in gc.get_objects() if type(it) is pb.AppendOutputRequest)
    return any(all(it is not other for other in others) for it in kept)


def test_messages_that_came_count_in_the_memory_until_their_call_ends(gateway: InnerGateway) -> None:
    rude, kind = gateway.someone(), gateway.someone()
    budget = gateway.gateway.memory
    request = pb.AppendOutputRequest(attempt_id="x:1", node_id="n", data=bytes(MIB))
    with budget.hold(gateway.user_id(rude), budget.share_bytes):
        ask = rude.stubs.nodes.AppendOutput
        code, words = refused(lambda: ask(request, metadata=rude.metadata, timeout=CALL_SECONDS))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory" in words
        code, _ = refused(lambda: ask(request, metadata=kind.metadata, timeout=CALL_SECONDS))
        assert code not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)
