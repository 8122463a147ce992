"""A stream that goes on and on, however lively, is ended; nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from gateway.admission import message_limits
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import new_task_id
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until


@pytest.fixture
def gateway(
    valkey_server: TestValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InnerGateway]:
    """Whoever sends for longer than two seconds is ended."""
    valkey_server.emptied()
    monkeypatch.setattr(message_limits, "longest_stream_seconds", lambda _settings: 2.0)
    made = InnerGateway(tmp_path, valkey_server)
    yield made
    made.close()


@pytest.mark.parametrize("chunk", [b"", b"x"])
def test_a_stream_that_never_stalls_ends_nevertheless(gateway: InnerGateway, chunk: bytes) -> None:
    rude, before = gateway.someone(), gateway.packages()
    over = threading.Event()

    def drip() -> Iterator[pb.UploadTaskStreamRequest]:
        yield pb.UploadTaskStreamRequest(task=pb.UploadTaskRequest(task_id=new_task_id()))
        while not over.wait(0.01):
            yield pb.UploadTaskStreamRequest(zip_chunk=chunk)

    call = rude.stubs.tasks.UploadTaskStream
    try:
        code, words = refused(lambda: call(drip(), metadata=rude.metadata, timeout=CALL_SECONDS))
    finally:
        over.set()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer than" in words
    wait_until(gateway.is_idle, "nothing of it is held")
    assert gateway.packages() == before
