"""A task whose owner names no longest run: as many minutes as the balance covers, and they are told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.ledger import api as ledger_store
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused, upload
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import new_task_id, package
from tests.support.valkey import TestValkey

DATA = package({"main.py": "print('hello')"})


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, newcomer_balance_cpt=100)
    yield made
    made.close()


def _send(account: Account, task_id: str = "", **needs: int) -> pb.UploadTaskResponse:
    request = pb.UploadTaskRequest(task_id=task_id or new_task_id(), task_zip=DATA, **needs)  # type: ignore[arg-type]
    return account.stubs.tasks.UploadTask(request, metadata=account.metadata, timeout=CALL_SECONDS)


def test_the_second_task_takes_what_the_first_leaves_and_is_told(gateway: InnerGateway) -> None:
    newcomer = gateway.someone()
    first = _send(newcomer)
    assert (first.max_minutes, first.minutes_by_balance) == (60, False)
    task_id = new_task_id()
    second = _send(newcomer, task_id)
    assert (second.max_minutes, second.minutes_by_balance) == (40, True)
    assert "it may run 40 minutes, since the balance covers no more" in second.message
    status = newcomer.poll(task_id)
    assert (status.detail.max_minutes, status.detail.minutes_by_balance) == (40, True)
    assert "40 minutes at the most" in status.message
    # Nothing is left, not even for a minute.
    code, words = refused(
        lambda: upload(newcomer, pb.UploadTaskRequest(task_id=new_task_id(), task_zip=DATA))
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "0 CPT in your account" in words
    assert "100 are held by your tasks" in words


def test_the_same_upload_again_is_the_same_whatever_the_balance_is_by_then(gateway: InnerGateway) -> None:
    newcomer, task_id = gateway.someone(), new_task_id()
    _send(newcomer, max_minutes=95)
    assert _send(newcomer, task_id).max_minutes == 5
    again = _send(newcomer, task_id)
    assert (again.repeated_upload, again.max_minutes) == (True, 5)
    named = pb.UploadTaskRequest(task_id=task_id, task_zip=DATA, max_minutes=6)
    code, _ = refused(lambda: upload(newcomer, named))
    assert code is grpc.StatusCode.ALREADY_EXISTS


def test_what_is_named_is_not_shortened(gateway: InnerGateway) -> None:
    newcomer = gateway.someone()
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=DATA, max_minutes=101)
    code, words = refused(lambda: upload(newcomer, request))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "ask for max_minutes 100 or less" in words


def test_a_dry_run_tells_the_same(gateway: InnerGateway) -> None:
    newcomer = gateway.someone()
    request = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(memory_gb=4))
    answer = newcomer.stubs.tasks.ExplainTask(request, metadata=newcomer.metadata, timeout=CALL_SECONDS)
    assert (answer.max_minutes, answer.minutes_by_balance, answer.max_price_cpt) == (25, True, 100)


def test_many_at_once_share_the_balance_to_the_last_minute(gateway: InnerGateway) -> None:
    newcomer = gateway.someone()

    def send(_: int) -> int:
        try:
            return _send(newcomer).max_minutes
        except grpc.RpcError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        minutes = sorted(threads.map(send, range(8)), reverse=True)
    assert minutes == [60, 40, 0, 0, 0, 0, 0, 0]
    assert gateway.gateway.database.read(ledger_store.verify) == []
