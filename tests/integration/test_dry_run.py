"""A dry run refuses what the submit would refuse, with the same status and the same words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import new_task_id, package, script
from tests.support.valkey import TestValkey

KIB = 1 << 10
BALANCE = 100


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"),
        valkey_server,
        newcomer_balance_cpt=BALANCE,
        max_file_size=64 * KIB,
        max_unpacked_bytes=256 * KIB,
        max_package_entries=50,
        max_waiting_tasks_per_user=5,
    )
    yield made
    made.close()


def quote(account: Account, task: pb.UploadTaskRequest, **told: Any) -> pb.ExplainTaskResponse:
    request = pb.ExplainTaskRequest(task=task, **told)
    return account.stubs.tasks.ExplainTask(request, metadata=account.metadata, timeout=CALL_SECONDS)


def upload(account: Account, task: pb.UploadTaskRequest) -> None:
    account.stubs.tasks.UploadTask(task, metadata=account.metadata, timeout=CALL_SECONDS)


def both_refuse(
    account: Account, data: bytes, files: int, unpacked: int, **needs: Any
) -> tuple[Any, str, str]:
    sent = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=data, **needs)
    told = pb.UploadTaskRequest(
        package_bytes=len(data), package_sha256=hashlib.sha256(data).hexdigest(), **needs
    )
    code, words = refused(lambda: upload(account, sent))
    dry_code, dry_words = refused(
        lambda: quote(account, told, unpacked_bytes=unpacked, package_entries=files)
    )
    assert dry_code is code
    return code, words, dry_words


def test_what_costs_more_than_there_is(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    code, words, dry_words = both_refuse(someone, script("1"), 1, 1, max_minutes=BALANCE + 1)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert words == dry_words
    assert "ask for max_minutes 100 or less" in words


def test_a_package_over_a_bound(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    zeros = package({"main.py": "", "data": bytes(300 * KIB)})
    code, words, dry_words = both_refuse(someone, zeros, 2, 300 * KIB)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words == dry_words
    many = package({"main.py": "", **{f"{number}.txt": "" for number in range(60)}})
    _, _, dry_words = both_refuse(someone, many, 61, 0)
    assert "more than the 50 allowed" in dry_words
    task = pb.UploadTaskRequest(package_bytes=65 * KIB)
    code, words = refused(lambda: quote(someone, task))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "MAX_FILE_SIZE" in words


def test_more_tasks_than_one_may_have(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    task = pb.UploadTaskRequest(max_minutes=1)
    assert quote(someone, task, tasks=5).success
    code, words = refused(lambda: quote(someone, task, tasks=6))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "6 more would be too many" in words


def test_an_array_tells_what_all_of_it_can_cost_and_is_refused_over_its_bound(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    task = pb.UploadTaskRequest(max_minutes=3)
    assert quote(someone, task, tasks=4).array_most_cpt == 12
    code, words = refused(lambda: quote(someone, task, tasks=4, max_cpt=11))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "over its max_cpt of 11" in words
    code, _ = refused(lambda: quote(someone, task, tasks=100_001))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_package_that_was_refused_before(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    broken = package({"main.py": "x" * 40 * KIB})
    broken = broken[: len(broken) // 2] + bytes(40 * KIB) + broken[len(broken) // 2 :]
    code, _, _ = both_refuse(someone, broken, 1, 40 * KIB)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_task_of_the_placeholders_name_changes_nothing(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    upload(someone, pb.UploadTaskRequest(task_id="dry-run", task_zip=script("1"), max_minutes=1))
    code, _ = refused(lambda: quote(gateway.someone(), pb.UploadTaskRequest(max_minutes=BALANCE + 1)))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
