"""Whoever sends work that costs much waits for their own turn, and nobody else does."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO

import grpc
import pytest
from sqlalchemy import update

from nodepool.domain.tasks.states import Outcome
from nodepool.heavy.jobs import digest as result_digest_job
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import tasks
from nodepool.workflows import result_files
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused, upload, upload_streamed
from tests.support.inner_gateway import PASSWORD, InnerGateway
from tests.support.tasks import new_task_id, package, script
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

WAITING = 3
SUBMITS_PER_MINUTE = 60


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"),
        valkey_server,
        heavy_waiting_per_account=WAITING,
        submits_per_minute=SUBMITS_PER_MINUTE,
        password_changes_per_minute=1000,
    )
    yield made
    made.close()


def _large() -> bytes:
    """More than is checked in the gateway's own process."""
    return package({"main.py": "print('hello')", "data": os.urandom(100_000)})


def _balance(account: Account) -> pb.GetBalanceResponse:
    return account.stubs.users.GetBalance(pb.GetBalanceRequest(token=account.token), timeout=CALL_SECONDS)


def _request(data: bytes) -> pb.UploadTaskRequest:
    return pb.UploadTaskRequest(task_id=new_task_id(), task_zip=data)


def test_while_all_processes_are_taken_others_are_answered_and_have_the_next_turn(
    gateway: InnerGateway,
) -> None:
    rude, accomplice, kind = gateway.someone(), gateway.someone(), gateway.someone()
    with ThreadPoolExecutor(1) as threads:
        with gateway.full_of(rude, accomplice):
            assert _balance(kind).success
            small = kind.submit(script("print('small')"))
            assert kind.detail(small).state == "QUEUED"
            waits = threads.submit(upload, kind, _request(_large()))
            heavy = gateway.gateway.heavy
            wait_until(lambda: heavy.waiting == 2 * WAITING + 1, "the large upload waits for its turn")
            code, words = refused(lambda: upload(rude, _request(_large())))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "try again" in words
            assert _balance(kind).success
            assert not waits.done()
        assert waits.result(CALL_SECONDS).success


def test_passwords_wait_in_a_lane_of_their_own(gateway: InnerGateway) -> None:
    rude, kind = gateway.someone(), gateway.someone()
    lane, go = gateway.gateway.passwords, threading.Event()
    width = gateway.settings.password_threads
    taken: list[Future[bool]] = [
        lane.submit(("taken", number), lambda: go.wait(60)) for number in range(width)
    ]
    request = pb.ChangePasswordRequest(
        token=rude.token, old_password=PASSWORD, new_password="another good one"
    )
    try:
        with ThreadPoolExecutor(60) as threads:
            changes = [
                threads.submit(rude.stubs.users.ChangePassword, request, timeout=CALL_SECONDS)
                for _ in range(60)
            ]
            refusals = 60 - 16
            wait_until(
                lambda: sum(it.done() for it in changes) == refusals and lane.waiting == 16,
                "what is too much is refused",
            )
            assert _balance(kind).success
            go.set()
    finally:
        go.set()
    assert all(it.result(CALL_SECONDS) for it in taken)
    codes = [it.exception().code() for it in changes if it.exception()]  # type: ignore[union-attr]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == refusals
    assert sum(it.exception() is None for it in changes) == 1, "one changed it, and the token of all others"


def test_long_answers_are_made_for_one_account_one_after_the_other(gateway: InnerGateway) -> None:
    rude, kind, go = gateway.someone(), gateway.someone(), threading.Event()
    lane = gateway.gateway.lists
    taken = lane.submit(gateway.user_id(rude), lambda: go.wait(60))

    def ask(account: Account) -> grpc.Future[pb.GetAllTasksResponse]:
        request = pb.GetAllTasksRequest(token=account.token)
        return account.stubs.tasks.GetAllTasks.future(request, timeout=CALL_SECONDS)

    try:
        asked = [ask(rude) for _ in range(20)]
        wait_until(lambda: lane.waiting == 20, "they wait for their turn")
        assert ask(kind).result().success
        assert _balance(rude).success
    finally:
        go.set()
    assert taken.result(CALL_SECONDS)
    assert all(it.result().success for it in asked)


def _lies_at_its_end(size: int) -> bytes:
    """Only who has unpacked all of it finds that its checksum is wrong."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", "print('hello')")
        archive.writestr("salt", os.urandom(40_000))
        archive.writestr("zeros", os.urandom(8) + bytes(size))
    data = bytearray(buffer.getvalue())
    right = zlib.crc32(zipfile.ZipFile(buffer).read("zeros")).to_bytes(4, "little")
    while (at := data.find(right)) >= 0:
        data[at : at + 4] = bytes(byte ^ 0xFF for byte in right)
    return bytes(data)


def test_a_refused_package_costs_its_sender_and_the_same_bytes_are_not_looked_at_again(
    gateway: InnerGateway,
) -> None:
    rude, kind = gateway.someone(), gateway.someone()
    bad = _lies_at_its_end(1_000_000)
    code, words = refused(lambda: upload_streamed(rude, _request(bad)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT, words
    with gateway.full_of(kind, gateway.someone()):
        code, words = refused(lambda: upload(rude, _request(bad)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "refused before" in words
    looked_at = 0
    while True:
        code, words = refused(lambda: upload(rude, _request(_lies_at_its_end(1_000_000))))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            break
        assert code is grpc.StatusCode.INVALID_ARGUMENT, words
        looked_at += 1
        assert looked_at < 20
    assert "try again in" in words
    assert kind.submit(script("print('others go on')"))


def test_what_is_cheap_to_refuse_is_refused_before_anything_is_looked_at(gateway: InnerGateway) -> None:
    rude, kind = gateway.someone(), gateway.someone()
    data = _large()
    taken = kind.submit(data)
    with gateway.full_of(rude, gateway.someone()):
        poor = pb.UploadTaskRequest(
            task_id=new_task_id(), task_zip=_large(), memory_gb=10**7, max_minutes=1000
        )
        assert refused(lambda: upload(kind, poor))[0] is grpc.StatusCode.FAILED_PRECONDITION
        theirs = pb.UploadTaskRequest(task_id=taken, task_zip=_large())
        assert refused(lambda: upload(rude, theirs))[0] is grpc.StatusCode.ALREADY_EXISTS
        # The same bytes as a task that is here: they were looked at then.
        assert upload(kind, _request(data)).success
        assert upload(kind, pb.UploadTaskRequest(task_id=taken, task_zip=data)).repeated_upload


def test_a_result_that_takes_too_much_agrees_with_nobody_and_holds_nothing_up(
    gateway: InnerGateway,
) -> None:
    files = gateway.gateway.files
    attempt = f"{new_task_id()}~1:1"
    # Deflated zeros, wrapped so that the sizes it tells are small: it unpacks to far more than is read.
    with files.result_writer(attempt) as writer:
        writer.write(_lies_at_its_end(30_000_000))
        writer.commit()
    ran = result_files.Ran(outcome=Outcome.SUCCEEDED, exit_code=0)
    want = result_files.Wanted(attempt, ran, files.sealed_result(attempt), None, ("*",), 1 << 20)
    made = gateway.gateway.heavy.submit("node", result_digest_job, *want.arguments).result(60)
    assert made is None
    assert want.or_unlike(made) == hashlib.sha256(f"unreadable {attempt}".encode()).hexdigest()
    honest = package({"out": "42"})
    with files.result_writer(attempt) as writer:
        writer.write(honest)
        writer.commit()
    again = result_files.Wanted(attempt, ran, files.sealed_result(attempt), None, ("*",), 1 << 20)
    assert gateway.gateway.heavy.submit("node", result_digest_job, *again.arguments).result(60)
    # A job that was begun for the first result does not read the second one.
    assert gateway.gateway.heavy.submit("node", result_digest_job, *want.arguments).result(60) is None


def test_packages_that_wait_take_no_more_memory_than_there_is_for_them(gateway: InnerGateway) -> None:
    rude, kind = gateway.someone(), gateway.someone()
    share = gateway.gateway.memory.share_bytes
    with (
        gateway.full_of(gateway.someone(), gateway.someone()),
        gateway.gateway.memory.hold(gateway.user_id(rude), share),
    ):
        large = _request(package({"main.py": "print('hello')", "data": os.urandom(300_000)}))
        code, words = refused(lambda: upload(rude, large))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory" in words
        assert kind.submit(script("print('others go on')"))


def test_a_large_result_is_counted_until_it_is_sent(gateway: InnerGateway) -> None:
    owner, pool = gateway.someone(), gateway.gateway
    task_id, attempt = owner.submit(script("print('large')")), f"{new_task_id()}:1"
    result = os.urandom(3 << 20)
    with pool.files.result_writer(attempt) as writer:
        writer.write(result)
        writer.commit()
    ended = update(tasks).where(tasks.c.id == task_id)
    values = {"state": "SUCCEEDED", "result_bytes": len(result), "result_attempt": attempt}
    pool.database.write(lambda c: c.execute(ended.values(started_at=1.0, finished_at=2.0, **values)))
    call = owner.stubs.tasks.GetTaskResult.with_call
    request = pb.GetTaskResultRequest(task_id=task_id, token=owner.token)
    assert call(request, timeout=CALL_SECONDS)[0].result_zip == result
    wait_until(lambda: pool.memory.held_bytes == 0, "what was sent is held no more")
    with pool.memory.hold(gateway.user_id(owner), pool.memory.share_bytes):
        assert refused(lambda: call(request, timeout=CALL_SECONDS))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
