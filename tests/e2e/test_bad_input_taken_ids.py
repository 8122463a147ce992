"""A second upload with an id that is taken: the same one is accepted and runs once, another is refused."""

from __future__ import annotations

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.hostile import Upload, refused, upload, upload_streamed
from tests.support.pool import TestPool
from tests.support.tasks import new_task_id, script, unpacked

BOTH_WAYS = pytest.mark.parametrize("way", [upload, upload_streamed], ids=["unary", "streamed"])
COUNTED = script("import os\nprint('ran as', os.environ['TASK_ID'])")


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture(scope="module")
def stranger(pool: TestPool) -> Account:
    return pool.register_user()


@pytest.fixture(scope="module")
def ended(user: Account) -> str:
    task = user.submit(COUNTED)
    user.wait_for(task, "COMPLETED")
    return task


@BOTH_WAYS
def test_the_same_upload_again_is_accepted_and_runs_once(user: Account, way: Upload) -> None:
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=COUNTED, memory_gb=1, location="Any")
    assert not way(user, request).repeated_upload
    assert way(user, request).repeated_upload
    user.wait_for(request.task_id, "COMPLETED")
    before = user.detail(request.task_id)
    again = way(user, request)
    assert (again.success, again.repeated_upload) == (True, True)
    assert user.detail(request.task_id) == before
    assert before.attempt_number == 1
    logs = unpacked(user.result(request.task_id))["task_logs.txt"]
    assert logs.count(b"ran as") == 1


@BOTH_WAYS
def test_another_upload_with_a_taken_id_is_refused_and_changes_nothing(
    user: Account, stranger: Account, ended: str, way: Upload
) -> None:
    before = user.detail(ended)
    for caller, fields in (
        (user, {"task_zip": script("print('other bytes')")}),
        (user, {"task_zip": COUNTED, "memory_gb": 2}),
        (user, {"task_zip": COUNTED, "gpu_name": "other"}),
        (user, {"task_zip": COUNTED, "location": "Asia"}),
        (user, {"task_zip": COUNTED, "max_minutes": 2}),
        (stranger, {"task_zip": COUNTED}),
        (stranger, {"task_zip": script("print('other bytes')")}),
    ):
        request = pb.UploadTaskRequest(task_id=ended, **fields)  # type: ignore[arg-type]
        code, message = refused(lambda: way(caller, request))  # noqa: B023
        assert code is grpc.StatusCode.ALREADY_EXISTS
        assert ended in message
    assert user.detail(ended) == before
