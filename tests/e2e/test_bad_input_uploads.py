"""Uploads that are refused, over both ways to upload; of none of them anything is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.hostile import (
    HOSTILE,
    MAX_ENTRIES,
    MAX_UNPACKED_BYTES,
    Upload,
    as_stream,
    incompressible,
    refused,
    upload,
    upload_streamed,
)
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import new_task_id, script

MAX_FILE_BYTES = 256 << 10
BOTH_WAYS = pytest.mark.parametrize("way", [upload, upload_streamed], ids=["unary", "streamed"])
GOOD = script("print('it ran')")


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    settings = {
        "MAX_FILE_SIZE": MAX_FILE_BYTES,
        "MAX_UNPACKED_BYTES": MAX_UNPACKED_BYTES,
        "MAX_PACKAGE_ENTRIES": MAX_ENTRIES,
    }
    pool = pool_factory(agents=1, settings={name: str(value) for name, value in settings.items()})
    pool.wait_for_storage()
    return pool


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture
def _nothing_is_kept(pool: TestPool) -> Iterator[None]:
    before = stored(pool)
    yield
    assert stored(pool) == before


def stored(pool: TestPool) -> set[Path]:
    return {path for path in (pool.folder / "storage").rglob("*") if path.is_file()}


def assert_unknown(user: Account, task_id: str) -> None:
    assert refused(lambda: user.poll(task_id))[0] is grpc.StatusCode.NOT_FOUND


@BOTH_WAYS
@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_package_that_is_not_acceptable_is_refused_and_nothing_is_kept(
    user: Account, what: str, way: Upload
) -> None:
    zip_bytes, words = HOSTILE[what]
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=zip_bytes)
    code, message = refused(lambda: way(user, request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in message
    assert "Traceback" not in message
    assert_unknown(user, request.task_id)


@BOTH_WAYS
@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_package_over_the_size_limit_is_refused_with_the_limits_name(user: Account, way: Upload) -> None:
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=incompressible(MAX_FILE_BYTES))
    code, message = refused(lambda: way(user, request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "MAX_FILE_SIZE" in message
    assert str(MAX_FILE_BYTES) in message
    assert_unknown(user, request.task_id)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"memory_gb": -1}, "memory_gb"),
        ({"cpu_score": -(2**31)}, "cpu_score"),
        ({"gpu_score": -5}, "gpu_score"),
        ({"gpu_memory_gb": -1}, "gpu_memory_gb"),
        ({"memory_gb": 2**31 - 1}, "memory_gb"),
        ({"location": "Atlantis"}, "Atlantis"),
        ({"image": "evil/image:latest"}, "evil/image"),
        ({"network": True}, "ALLOW_TASK_NETWORK"),
        ({"max_minutes": -1}, "max_minutes"),
        ({"max_minutes": 10_000_000}, "max_minutes"),
        ({"gpu_name": "x" * 5000}, "gpu_name"),
        ({"gpu_name": "RTX\x1b[2J"}, "gpu_name"),
        ({"task_id": ""}, "task_id"),
        ({"task_id": "../../etc/passwd"}, "task_id"),
        ({"task_id": "a:1"}, "task_id"),
        ({"task_id": "x" * 129}, "task_id"),
        ({"task_id": "task\n"}, "task_id"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_task_that_cannot_be_is_refused_with_the_fields_name(
    user: Account, way: Upload, fields: dict[str, object], words: str
) -> None:
    request = pb.UploadTaskRequest(**{"task_id": new_task_id(), "task_zip": GOOD, **fields})  # type: ignore[arg-type]
    code, message = refused(lambda: way(user, request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in message


@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_stream_that_does_not_begin_with_the_task_is_refused(user: Account) -> None:
    for messages in (
        [],
        [pb.UploadTaskStreamRequest()],
        [pb.UploadTaskStreamRequest(zip_chunk=GOOD)],
        list(as_stream(pb.UploadTaskRequest(task_id=new_task_id(), task_zip=GOOD)))[::-1],
    ):
        call = user.stubs.tasks.UploadTaskStream
        code, message = refused(lambda: call(iter(messages), metadata=user.metadata))  # noqa: B023
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "first message" in message


@pytest.mark.usefixtures("_nothing_is_kept")
def test_a_stream_that_names_a_second_task_is_refused(user: Account) -> None:
    first, second = (pb.UploadTaskRequest(task_id=new_task_id(), task_zip=GOOD) for _ in range(2))
    messages = [*as_stream(first), *as_stream(second)]
    call = user.stubs.tasks.UploadTaskStream
    code, _ = refused(lambda: call(iter(messages), metadata=user.metadata))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert_unknown(user, first.task_id)
    assert_unknown(user, second.task_id)


@pytest.mark.usefixtures("_nothing_is_kept")
def test_of_a_stream_that_breaks_off_nothing_is_kept(pool: TestPool, user: Account) -> None:
    """Even when all bytes of the package were sent: the client never said that it was all."""
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=GOOD)
    all_taken, let_go = threading.Event(), threading.Event()

    def messages() -> Iterator[pb.UploadTaskStreamRequest]:
        yield from as_stream(request)
        all_taken.set()
        let_go.wait(60)

    call = user.stubs.tasks.UploadTaskStream.future(messages(), metadata=user.metadata)
    try:
        assert all_taken.wait(60)
        call.cancel()
    finally:
        let_go.set()
    # What the gateway answers after it, it answers having seen the end of the stream.
    assert pool.gateway.is_running
    for _ in range(20):
        assert_unknown(user, request.task_id)


def test_needs_that_no_node_can_ever_meet_are_accepted_and_the_reason_is_told(
    pool: TestPool, user: Account
) -> None:
    for fields, words in (
        ({"memory_gb": 100_000}, "too small: memory"),
        ({"cpu_score": 9_000_000}, "too small: cpu_score"),
        ({"gpu_score": 1000}, "too small: gpu_score"),
        ({"gpu_name": "Abacus 3000"}, "with another GPU"),
        ({"location": "大洋洲"}, "in another region"),
    ):
        task = user.submit(GOOD, **fields)
        pool.wait(lambda: user.detail(task).reason, f"the pool tells why {fields} wait")  # noqa: B023
        answer = user.poll(task)
        assert answer.status == "PENDING"
        assert answer.detail.reason.startswith("no node of the pool can ever run this")
        assert words in answer.detail.reason
        assert answer.message == answer.detail.reason
        assert user.stop(task).success
        assert user.poll(task).status == "STOPPED"
