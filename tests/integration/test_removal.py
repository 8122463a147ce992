"""What ended tasks keep goes after a while or when their owners say so: files, storage, rows. Money stays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select, update

from dispatcher import context
from dispatcher.context import Dispatcher
from dispatcher.sweep.housekeeping import Housekeeping
from dispatcher.sweep.stored_files import StoredFiles
from nodepool.domain.errors import UnavailableError
from nodepool.domain.tasks.retention import DAY_SECONDS
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.files.file_store import FileStore
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import attempts, holds, tasks, users
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.hostile import refused, upload
from tests.support.inner_gateway import InnerGateway
from tests.support.tasks import new_task_id, package, script
from tests.support.valkey import TestValkey

_SAID = b"what it said\n"
_RESULT = package({"out.txt": "x" * 5000, "task_logs.txt": _SAID})


@dataclass
class Pool:
    """A gateway, and the housekeeping of a dispatcher whose clock a test moves."""

    inner: InnerGateway
    dispatcher: Dispatcher
    now: list[float]

    def tidy(self, *, after_days: float) -> None:
        self.now[0] += after_days * DAY_SECONDS
        with closing(Housekeeping(self.dispatcher)) as housekeeping:
            housekeeping.step()

    def ended(self, owner: Account, data: bytes = b"") -> str:
        """A task of the owner that has run, with a result."""
        running = self.inner.running(owner, data or script(f"print({new_task_id()!r})"))
        messages = [running.end(_RESULT), pb.FinishAttemptRequest(result_chunk=_RESULT)]
        end = owner.stubs.nodes.FinishAttempt(iter(messages), metadata=owner.metadata, timeout=CALL_SECONDS)
        assert end.success
        return running.task_id

    def results(self) -> list[str]:
        return [path.name for path in (self.inner.folder / "storage/results").glob("*/*")]

    def logs(self) -> list[str]:
        return [path.name for path in (self.inner.folder / "storage/logs").glob("*/*")]

    def count(self, table: Any, *where: Any) -> int:
        query = select(func.count()).select_from(table).where(*where)
        return int(self.dispatcher.database.read(lambda c: c.execute(query).scalar_one()))


@pytest.fixture
def pool(valkey: TestValkey, tmp_path: Path) -> Iterator[Pool]:
    inner = InnerGateway(
        tmp_path, valkey, result_days=1, log_days=2, task_days=3, audit_share=0, max_stored_mb_per_user=1
    )
    now = [time.time()]
    with closing(inner), closing(context.build(inner.settings, clock=lambda: now[0])) as dispatcher:
        yield Pool(inner, dispatcher, now)


def _kept(owner: Account) -> int:
    request = pb.GetBalanceRequest(token=owner.token)
    return owner.stubs.users.GetBalance(request, timeout=CALL_SECONDS).stored_bytes


def _poll(owner: Account, task_id: str) -> pb.PollTaskStatusResponse:
    request = pb.PollTaskStatusRequest(task_id=task_id)
    return owner.stubs.tasks.PollTaskStatus(request, metadata=owner.metadata, timeout=CALL_SECONDS)


def _logs(owner: Account, task_id: str) -> pb.GetTaskLogsResponse:
    request = pb.GetTaskLogsRequest(task_id=task_id, token=owner.token)
    return owner.stubs.tasks.GetTaskLogs(request, timeout=CALL_SECONDS)


def _delete(owner: Account, task_id: str) -> pb.StatusResponse:
    request = pb.DeleteTaskRequest(task_id=task_id)
    return owner.stubs.tasks.DeleteTask(request, metadata=owner.metadata, timeout=CALL_SECONDS)


def _download(owner: Account, task_id: str) -> list[pb.DownloadResultResponse]:
    request = pb.DownloadResultRequest(task_id=task_id)
    return list(owner.stubs.tasks.DownloadResult(request, metadata=owner.metadata, timeout=CALL_SECONDS))


def test_results_go_then_outputs_then_rows_and_what_was_paid_stays(pool: Pool) -> None:
    owner = pool.inner.someone()
    task_id = pool.ended(owner)
    detail = _poll(owner, task_id).detail
    assert detail.has_result
    assert detail.result_until == pytest.approx(detail.finished_at + DAY_SECONDS)
    before = _kept(owner)
    pool.tidy(after_days=0.5)
    assert _poll(owner, task_id).detail.has_result

    pool.tidy(after_days=0.6)
    assert (pool.results(), pool.inner.packages()) == ([], [])
    told = _poll(owner, task_id)
    assert told.status == "COMPLETED"
    assert "its result was removed 1.1 days after its end" in told.message
    assert (told.detail.has_result, told.detail.result_bytes, told.detail.output_removed) == (False, 0, False)
    assert told.detail.result_removed_at == pytest.approx(pool.now[0])
    answer = owner.stubs.tasks.GetTaskResult(
        pb.GetTaskResultRequest(task_id=task_id, token=owner.token), timeout=CALL_SECONDS
    )
    assert (answer.success, "removed 1.1 days after" in answer.message) == (False, True)
    code, words = refused(lambda: _download(owner, task_id))
    assert (code, "removed 1.1 days after" in words) == (grpc.StatusCode.NOT_FOUND, True)
    assert _logs(owner, task_id).logs.encode() == _SAID
    assert before > _kept(owner) == len(_SAID)

    pool.tidy(after_days=1)
    assert pool.logs() == []
    gone = _logs(owner, task_id)
    assert (gone.success, "not kept any more" in gone.message) == (False, True)
    assert (_kept(owner), _poll(owner, task_id).detail.output_removed) == (0, True)

    pool.tidy(after_days=1)
    code, words = refused(lambda: _poll(owner, task_id))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "3 days" in words
    assert "ledger" in words
    code, words = refused(lambda: _poll(pool.inner.someone(), task_id))
    assert (code, "ledger" in words) == (grpc.StatusCode.NOT_FOUND, False)
    assert (pool.count(tasks), pool.count(attempts), pool.count(holds)) == (0, 0, 1)
    report = ledger_store.verify_database(pool.dispatcher.database)
    assert (report.problems, report.holds) == ([], 1)
    request = pb.GetStatementRequest(token=owner.token, task_id=task_id)
    lines = owner.stubs.users.GetStatement(request, timeout=CALL_SECONDS).lines
    assert "hold" in {line.kind for line in lines}
    # Its id is not another task's.
    same = pb.UploadTaskRequest(task_id=task_id, task_zip=script("print('again')"))
    assert refused(lambda: upload(owner, same))[0] is grpc.StatusCode.ALREADY_EXISTS


def test_an_owner_deletes_what_has_ended_and_has_room_again_at_once(pool: Pool) -> None:
    owner, other = pool.inner.someone(), pool.inner.someone()
    data = script("print('the same for both')")
    task_id, theirs = pool.ended(owner, data), pool.ended(other, data)
    waits = owner.submit(script("print('waits')"))
    code, words = refused(lambda: _delete(owner, waits))
    assert (code, "stop it first" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    assert refused(lambda: _delete(other, task_id))[0] is grpc.StatusCode.NOT_FOUND
    owner.stop(waits)
    assert _delete(owner, waits).success
    assert _kept(owner) > 0
    assert _delete(owner, task_id).success
    assert _kept(owner) == 0
    assert len(pool.results()) == 1
    assert len(pool.inner.packages()) == 1, "the other one's task needs it"
    for ask in (_poll, _download, _delete):
        assert refused(lambda ask=ask: ask(owner, task_id))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]
    listed = owner.stubs.tasks.GetAllTasks(pb.GetAllTasksRequest(token=owner.token), timeout=CALL_SECONDS)
    assert [it.task_id for it in listed.tasks] == []
    same = pb.UploadTaskRequest(task_id=task_id, task_zip=data)
    assert refused(lambda: upload(owner, same))[0] is grpc.StatusCode.ALREADY_EXISTS
    assert len(_download(other, theirs)) > 0
    pool.tidy(after_days=0.1)
    assert pool.count(tasks) == 1
    assert ledger_store.verify_database(pool.dispatcher.database).problems == []


@pytest.mark.parametrize(
    "columns",
    [{"verification": "pending"}, {"held_back_until": 2e10}],
    ids=["results are compared", "held back"],
)
def test_what_is_being_checked_stays(pool: Pool, columns: dict[str, Any]) -> None:
    owner = pool.inner.someone()
    task_id = pool.ended(owner)
    change = update(tasks).where(tasks.c.id == task_id)
    pool.dispatcher.database.write(lambda c: c.execute(change.values(columns)))
    pool.tidy(after_days=100)
    assert len(pool.results()) == len(pool.inner.packages()) == 1
    code, words = refused(lambda: _delete(owner, task_id))
    assert (code, "is being checked" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    pool.dispatcher.database.write(lambda c: c.execute(change.values(verification="", held_back_until=0)))
    pool.tidy(after_days=0)
    assert (pool.results(), pool.inner.packages(), pool.count(tasks)) == ([], [], 0)


def test_a_package_that_another_task_needs_stays(pool: Pool) -> None:
    owner = pool.inner.someone()
    data = script("print('twice')")
    pool.ended(owner, data)
    waits = owner.submit(data)
    pool.tidy(after_days=10)
    assert pool.results() == []
    assert len(pool.inner.packages()) == 1
    assert _kept(owner) == len(data)
    owner.stop(waits)
    assert pool.inner.packages() == []


def test_a_removal_that_breaks_off_is_finished_later(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between SQL and the file: SQL says that it is gone, and that somebody has to look at it."""
    owner = pool.inner.someone()
    pool.ended(owner)

    def broken(_store: FileStore, _attempt_id: str, **_: bool) -> None:
        raise UnavailableError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "delete_result", broken)
        with pytest.raises(UnavailableError):
            pool.tidy(after_days=10)
    assert len(pool.results()) == 1
    assert pool.count(tasks, tasks.c.storage_due) == 1
    assert _kept(owner) == 0
    pool.tidy(after_days=0)
    assert pool.count(tasks) == 1, "its files first"
    StoredFiles(pool.dispatcher).settle()
    assert pool.results() == []
    pool.tidy(after_days=0)
    assert pool.count(tasks) == 0


def test_the_operator_sees_what_is_kept_for_whom_and_what_would_go(pool: Pool) -> None:
    owner = pool.inner.someone()
    pool.ended(owner)
    code, _ = refused(lambda: _disk(owner))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    admin = _admin(pool)
    found = _disk(admin)
    kept = {it.kind: (it.count, it.bytes) for it in found.kept}
    assert kept["results"] == (1, len(_RESULT))
    assert kept["tasks"][0] == kept["packages"][0] == 1
    assert [(it.username, it.tasks, it.stored_bytes) for it in found.users] == [
        (owner.username, 1, _kept(owner))
    ]
    assert {it.kind: it.count for it in found.would_go} == {"results": 0, "outputs": 0, "tasks": 0}
    assert found.database_bytes > 0
    assert 0 < found.storage_free_bytes <= found.storage_total_bytes
    assert found.broker_bytes > 0
    soon = _disk(admin, result_days=1e-9, task_days=0.0)
    assert {it.kind: it.count for it in soon.would_go} == {"results": 1, "outputs": 0}
    assert len(pool.results()) == 1, "nothing was changed"
    assert refused(lambda: _disk(admin, task_days=-1.0))[0] is grpc.StatusCode.INVALID_ARGUMENT


def _admin(pool: Pool) -> Account:
    somebody = pool.inner.someone()
    change = update(users).where(users.c.username == somebody.username).values(role="admin")
    pool.dispatcher.database.write(lambda c: c.execute(change))
    request = pb.LoginRequest(username=somebody.username, password=somebody.password)
    token = somebody.stubs.users.Login(request, timeout=CALL_SECONDS).token
    return replace(somebody, token=token)


def _disk(account: Account, **asked: float) -> pb.GetDiskUseResponse:
    request = pb.GetDiskUseRequest(**asked)  # type: ignore[arg-type]
    return account.stubs.admin.GetDiskUse(request, metadata=account.metadata, timeout=CALL_SECONDS)


def test_a_dry_run_says_what_room_there_is_and_that_a_package_would_not_fit(pool: Pool) -> None:
    owner = pool.inner.someone()
    task_id = pool.ended(owner)
    request = pb.ExplainTaskRequest(task=pb.UploadTaskRequest(package_bytes=1000, package_sha256="a" * 64))
    answer = owner.stubs.tasks.ExplainTask(request, metadata=owner.metadata, timeout=CALL_SECONDS)
    assert (answer.stored_bytes, answer.stored_bytes_limit, answer.result_days) == (_kept(owner), 1 << 20, 1)
    request.task.package_bytes = 2 << 20
    code, words = refused(
        lambda: owner.stubs.tasks.ExplainTask(request, metadata=owner.metadata, timeout=CALL_SECONDS)
    )
    assert (code, "hivemind rm" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    told = upload(owner, pb.UploadTaskRequest(task_id=new_task_id(), task_zip=script("print(1)")))
    assert (told.stored_bytes, told.stored_bytes_limit) == (_kept(owner) - len(script("print(1)")), 1 << 20)
    assert _delete(owner, task_id).success
