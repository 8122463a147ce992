"""Submitting while Redis is away or the disk is full: kept whole or not at all, and it goes on afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import log_in
from tests.support.environment import not_here
from tests.support.hostile import Upload, incompressible, refused, upload, upload_streamed
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import new_task_id, script, unpacked

BOTH_WAYS = pytest.mark.parametrize("way", [upload, upload_streamed], ids=["unary", "streamed"])
DISK_BYTES = 8 << 20
PACKAGE_BYTES = 2 << 20
RECOVERY_SECONDS = 120.0
NOISE_BYTES = 500_000
NOISE = f"""
import os, time
with open('noise', 'wb') as file:
    file.write(os.urandom({NOISE_BYTES}))
print('begun', flush=True)
time.sleep(3600)
"""


# -- Redis -------------------------------------------------------------------------------------------
def test_a_task_submitted_while_redis_is_away_is_accepted_and_runs_when_it_is_back(pool: TestPool) -> None:
    user = pool.register_user()
    source = "import os\nprint('ran as', os.environ['TASK_ID'])"
    pool.valkey.kill()
    try:
        requests = [pb.UploadTaskRequest(task_id=new_task_id(), task_zip=script(source)) for _ in range(4)]
        for request, way in zip(requests, [upload, upload_streamed] * 2, strict=True):
            assert way(user, request).success
            assert user.poll(request.task_id).status == "PENDING"
            assert user.logs(request.task_id) == ""
        assert upload(user, requests[0]).repeated_upload
        stopped = requests.pop().task_id
        assert user.stop(stopped).success
        assert log_in(user.stubs, user.username, user.password).token
        assert [node.status for node in user.node_list()] == ["OFFLINE"]
    finally:
        pool.valkey.restart()
    for request in requests:
        answer = user.wait_for(request.task_id, "COMPLETED", timeout=RECOVERY_SECONDS)
        assert answer.detail.attempt_number == 1
        assert unpacked(user.result(request.task_id))["task_logs.txt"].count(b"ran as") == 1
    assert user.poll(stopped).status == "STOPPED"
    assert user.detail(stopped).attempt_number == 0


# -- the disk ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        not_here("only root may mount a small disk")
    path = tmp_path_factory.mktemp("disk")
    options = f"size={DISK_BYTES},mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=False)
    if mounted.returncode != 0:
        not_here("this machine does not let a small disk be mounted")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture(scope="module")
def small_pool(small_disk: Path, pool_factory: PoolFactory) -> Iterator[TestPool]:
    """A pool whose packages and results are on the small disk; it ends before the disk goes."""
    pool = pool_factory(agents=1, settings={"TASK_STORAGE_PATH": str(small_disk / "storage")})
    pool.wait_for_storage()
    yield pool
    pool.close()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte more fits within this context."""
    filler = disk / "filler"
    try:
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        yield
    finally:
        filler.unlink()


def stored(disk: Path) -> set[Path]:
    storage = disk / "storage"
    # A lock of the store is an empty file that stays.
    return {path for path in storage.rglob("*") if path.is_file() and path.parent != storage / "locks"}


@BOTH_WAYS
@pytest.mark.parametrize("size_bytes", [1000, PACKAGE_BYTES], ids=["small", "large"])
def test_a_task_submitted_to_a_full_disk_is_refused_whole_and_accepted_when_there_is_room(
    small_pool: TestPool, small_disk: Path, way: Upload, size_bytes: int
) -> None:
    user = small_pool.register_user()
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=incompressible(size_bytes))
    before = stored(small_disk)
    with full(small_disk):
        code, message = refused(lambda: way(user, request))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "storage is full" in message
        assert str(small_disk) not in message
        assert refused(lambda: user.poll(request.task_id))[0] is grpc.StatusCode.NOT_FOUND
        assert stored(small_disk) == before
    assert not way(user, request).repeated_upload
    user.wait_for(request.task_id, "COMPLETED")
    for path in stored(small_disk) - before:
        path.unlink()


def test_a_result_that_meets_a_full_disk_is_kept_by_its_node_until_there_is_room(
    small_pool: TestPool, small_disk: Path
) -> None:
    user = small_pool.register_user()
    task = user.submit(script(NOISE))
    small_pool.wait(lambda: "begun" in user.logs(task), "the script has begun")
    with full(small_disk):
        seen = small_pool.gateway.log().count("No space left")
        assert user.stop(task).success
        small_pool.wait(
            lambda: small_pool.gateway.log().count("No space left") > seen, "its result meets the full disk"
        )
        assert user.poll(task).status == "RUNNING"
        assert not user.detail(task).has_result
    answer = user.wait_for(task, "STOPPED", timeout=RECOVERY_SECONDS)
    assert answer.detail.attempt_number == 1
    files = unpacked(user.result(task))
    assert len(files["noise"]) == NOISE_BYTES
    assert "task_stopped.txt" in files
