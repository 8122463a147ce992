"""ResubmitTask and ResubmitJob: what has ended, once more, as it was or with changes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from sqlalchemy import select, update

from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import storage_accounting
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import holds, jobs, tasks
from nodepool.workflows import stored_files
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import job_of, lines_of, new_job_id, submit_array
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway
from tests.support.stores import place
from tests.support.tasks import new_task_id, package
from tests.support.valkey import TestValkey

PACKAGE = package({"main.py": "print('hello')"})
NOT_ENDED, GONE = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"), valkey_server, allowed_images="other:1", allow_task_network=True
    )
    yield made
    made.close()


def _ended(gateway: InnerGateway, *task_ids: str, state: TaskState = TaskState.FAILED) -> None:
    """As a run's end leaves them, but for the run."""

    def work(connection: Connection) -> None:
        for task_id in task_ids:
            ledger_store.void(connection, task_id, 5.0)
        ended = {"state": state, "finished_at": 5.0, "exit_code": 75}
        connection.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(ended))

    gateway.gateway.database.write(work)


def _again(
    account: Account, task_id: str, new_id: str = "", changes: dict[str, Any] | None = None
) -> pb.ResubmitTaskResponse:
    request = pb.ResubmitTaskRequest(
        task_id=task_id,
        new_task_id=new_id or new_task_id(),
        changes=pb.UploadTaskRequest(**(changes or {})),
        changed=sorted(changes or {}),
    )
    return account.stubs.tasks.ResubmitTask(request, metadata=account.metadata, timeout=CALL_SECONDS)


def _job_again(account: Account, job_id: str, new_id: str = "", **what: Any) -> pb.SubmitArrayResponse:
    request = pb.ResubmitJobRequest(job_id=job_id, new_job_id=new_id or new_job_id(), **what)
    return account.stubs.tasks.ResubmitJob(request, metadata=account.metadata, timeout=CALL_SECONDS)


# -- one task -------------------------------------------------------------------------------------------
EVERYTHING: dict[str, Any] = {
    "memory_gb": 2, "cpu_score": 100, "location": "asia", "image": "other:1", "network": True,
    "max_minutes": 7, "priority": 8, "min_trust": "normal", "exclusive": True, "take_pending": True,
    "arguments": ["--lr", "{0.1}", ""], "environment": {"LR": "0.1"}, "name": "lr 0.1",
    "labels": {"sweep": "first"}, "retries": 3, "retry_on": [75, 137], "backoff_seconds": 5,
}  # fmt: skip


def test_all_that_a_task_was_given_it_is_given_again(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = ada.submit(PACKAGE, **EVERYTHING)
    packages = gateway.packages()
    _ended(gateway, old)
    done = _again(ada, old)
    assert (done.repeated, done.job_id, done.max_minutes) == (False, "", 7)
    before, after = (_row(gateway, it) for it in (old, done.task_id))
    own = {
        "id", "state", "reason", "created_at", "updated_at", "hinted_at", "queued_at", "finished_at",
        "exit_code", "resubmit_of",
    }  # fmt: skip
    assert {name for name in before if before[name] != after[name]} <= own
    assert (after["state"], after["resubmit_of"], after["exit_code"]) == ("QUEUED", old, None)
    assert ada.detail(done.task_id).resubmit_of == old
    assert ada.detail(done.task_id).held_cpt == ada.detail(done.task_id).price_per_minute_cpt * 7
    # Nothing was stored: the package is there, and is needed again.
    assert gateway.packages() == packages


def _row(gateway: InnerGateway, task_id: str) -> dict[str, Any]:
    query = select(tasks).where(tasks.c.id == task_id)
    return dict(gateway.gateway.database.read(lambda c: c.execute(query).one())._mapping)


def test_what_is_changed_is_changed_and_nothing_else(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = ada.submit(PACKAGE, **EVERYTHING)
    _ended(gateway, old)
    changes = {"max_minutes": 9, "memory_gb": 0, "environment": {"LR": "0.2"}, "retries": 0, "retry_on": []}
    new = ada.detail(_again(ada, old, changes=changes).task_id)
    assert (new.max_minutes, new.retries, list(new.retry_on)) == (9, 0, [])
    assert dict(new.environment) == {"LR": "0.2"}
    assert (list(new.arguments), new.name, new.priority) == (["--lr", "{0.1}", ""], "lr 0.1", 8)


def test_the_same_id_again_changes_nothing(gateway: InnerGateway) -> None:
    ada, new = gateway.someone(), new_task_id()
    old, other = (ada.submit(PACKAGE, name=name) for name in ("one", "other"))
    _ended(gateway, old, other)
    assert not _again(ada, old, new).repeated
    assert _again(ada, old, new).repeated
    assert refused(lambda: _again(ada, other, new))[0] is grpc.StatusCode.ALREADY_EXISTS
    assert refused(lambda: _again(ada, old, new, {"max_minutes": 1}))[0] is grpc.StatusCode.ALREADY_EXISTS
    held = select(holds.c.task_id).where(holds.c.task_id == new)
    assert len(gateway.gateway.database.read(lambda c: c.execute(held).all())) == 1


def test_one_without_a_longest_run_gets_what_the_balance_covers_now(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = ada.submit(PACKAGE)
    _ended(gateway, old)
    assert _again(ada, old).max_minutes == gateway.settings.default_max_minutes


def test_what_cannot_be_done_again_is_refused_with_what_can(gateway: InnerGateway) -> None:
    ada, bob = gateway.someone(), gateway.someone()
    waits, ended, deleted = (ada.submit(PACKAGE) for _ in range(3))
    _ended(gateway, ended, deleted)
    request = pb.DeleteTaskRequest(task_id=deleted)
    ada.stubs.tasks.DeleteTask(request, metadata=ada.metadata, timeout=CALL_SECONDS)
    bad: list[tuple[Callable[[], object], grpc.StatusCode, str]] = [
        (
            lambda: _again(ada, waits),
            NOT_ENDED,
            "has not ended (waiting for a node): wait for it, or stop it",
        ),
        (lambda: _again(bob, ended), GONE, "no task"),
        (lambda: _again(ada, "nothing"), GONE, "no task"),
        (lambda: _again(ada, deleted), GONE, deleted),
        (lambda: _again(ada, ended, "a b"), INVALID, "task_id must be"),
        (lambda: _again(ada, ended, changes={"task_zip": b"x"}), INVALID, "comes with the package"),
        (lambda: _again(ada, ended, changes={"image": "none:1"}), INVALID, "is not allowed here"),
        (lambda: _again(ada, ended, changes={"max_minutes": 10**6}), INVALID, "max_minutes must be"),
        (lambda: _again(ada, ended, changes={"retries": 1, "replicas": 3}), INVALID, "for retries or"),
    ]
    for call, code, words in bad:
        found, told = refused(call)
        assert (found, words in told) == (code, True), told
    unknown = pb.ResubmitTaskRequest(task_id=ended, new_task_id=new_task_id(), changed=["deadline"])
    found, told = refused(
        lambda: ada.stubs.tasks.ResubmitTask(unknown, metadata=ada.metadata, timeout=CALL_SECONDS)
    )
    assert (found, "is no field of a task" in told) == (INVALID, True)


def test_without_its_package_it_cannot_be_done_again_and_nothing_is_kept(gateway: InnerGateway) -> None:
    ada, new = gateway.someone(), new_task_id()
    old = ada.submit(package({"main.py": f"print({secrets.token_hex(8)!r})"}))
    _ended(gateway, old)
    gateway.gateway.files.delete_unneeded(_row(gateway, old)["package_sha256"], lambda: True)
    code, words = refused(lambda: _again(ada, old, new))
    assert (code, "is not kept here any more" in words, "submit it anew" in words) == (NOT_ENDED, True, True)
    assert refused(lambda: ada.poll(new))[0] is GONE
    assert (
        gateway.gateway.database.read(lambda c: c.execute(select(holds).where(holds.c.task_id == new)).all())
        == []
    )


@pytest.mark.parametrize("what", ["stopped for others", "a stopped array", "a stopped task"])
def test_what_never_ran_keeps_its_package_where_it_is_likely_to_be_done_again(
    gateway: InnerGateway, what: str
) -> None:
    ada, job_id = gateway.someone(), new_job_id()
    data = package({"main.py": f"print({secrets.token_hex(8)!r})"})
    database, files = gateway.gateway.database, gateway.gateway.files
    if what == "a stopped array":
        submit_array(ada, job_id, 2, zip_bytes=data)
        stop = pb.StopJobRequest(job_id=job_id)
        assert ada.stubs.tasks.StopJob(stop, metadata=ada.metadata, timeout=CALL_SECONDS).stopped == 2
        ended = [f"{job_id}.0", f"{job_id}.1"]
    else:
        first = ada.submit(PACKAGE)
        ended = [ada.submit(data, after=[first] if what == "stopped for others" else [])]
        ada.stop(first if what == "stopped for others" else ended[0])
    assert {ada.detail(task_id).state for task_id in ended} == {"STOPPED"}
    stored_files.settle(database, files, ended)
    if what == "a stopped array":
        assert _job_again(ada, job_id, states=["STOPPED"]).tasks == 2
    elif what == "stopped for others":
        assert ada.detail(_again(ada, ended[0]).task_id).state == "QUEUED"
    else:
        code, words = refused(lambda: _again(ada, ended[0]))
        assert (code, "was stopped before it ran" in words) == (NOT_ENDED, True)
    # Deleted, it gives up what it kept.
    for task_id in ended:
        delete = pb.DeleteTaskRequest(task_id=task_id)
        ada.stubs.tasks.DeleteTask(delete, metadata=ada.metadata, timeout=CALL_SECONDS)
    assert database.read(lambda c: storage_accounting.is_kept(c, hashlib.sha256(data).hexdigest())) == (
        what != "a stopped task"
    ), "what is done again has it now"


def test_it_is_paid_anew_and_refused_where_there_is_no_money(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = ada.submit(PACKAGE, max_minutes=10)
    _ended(gateway, old)
    request = pb.TransferRequest(
        token=ada.token, receiver_username=gateway.someone().username, amount=10**9 - 5, transfer_id="all"
    )
    assert ada.stubs.users.Transfer(request, metadata=ada.metadata, timeout=CALL_SECONDS).success
    code, words = refused(lambda: _again(ada, old))
    assert (code, "max_minutes 5 or less" in words) == (NOT_ENDED, True)
    assert _again(ada, old, changes={"max_minutes": 5}).task_id


# -- tasks of a job ---------------------------------------------------------------------------------------
def _array(gateway: InnerGateway, account: Account, failed: Sequence[int], count: int = 10) -> str:
    """A job of which these failed; the others succeeded, but for the last, which waits."""
    job_id = new_job_id()
    rows = [(index, [str(index / 10)]) for index in range(count)]
    submit_array(
        account, job_id, lines_of(rows), names=["lr"], arguments=["{lr}", "{{x}}"], labels={"exp": "1"},
        environment={"RUN": "{index}"}, name="sweep", max_minutes=3,
    )  # fmt: skip
    ids = {index: f"{job_id}.{index}" for index in range(count)}
    _ended(gateway, *(ids[index] for index in failed))
    others = [ids[index] for index in range(count - 1) if index not in failed]
    _ended(gateway, *others, state=TaskState.SUCCEEDED)
    return job_id


def test_failed_tasks_of_a_job_are_a_job_that_keeps_index_and_values(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = _array(gateway, ada, failed=[2, 7])
    done = _job_again(ada, old, states=["FAILED"])
    assert (done.tasks, done.repeated, done.max_minutes, done.most_cpt) == (2, False, 3, 6)
    told = job_of(ada, done.job_id).job
    assert (dict(told.counts), told.resubmit_of, told.name, dict(told.labels)) == (
        {"QUEUED": 2}, old, "sweep", {"exp": "1"},
    )  # fmt: skip
    seven = ada.detail(f"{done.job_id}.7")
    assert (list(seven.arguments), dict(seven.environment)) == (["0.7", "{x}"], {"RUN": "7"})
    assert (seven.job_index, seven.holds_when_placed, seven.max_minutes) == (7, True, 3)
    # The run is told the index, and how many tasks the whole has.
    node = f"{ada.username}/node"
    facts = pb.RegisterWorkerNodeRequest(
        node_id=node, hostname="h", cpu_cores=4, memory_gb=4, cpu_score=1000, kind="agent",
        capabilities=["inputs"],
    )  # fmt: skip
    ada.stubs.nodes.RegisterWorkerNode(facts, metadata=ada.metadata, timeout=CALL_SECONDS)
    assert gateway.gateway.database.write(lambda c: place(c, f"{done.job_id}.7", node))
    claim = pb.ClaimAttemptRequest(attempt_id=f"{done.job_id}.7:1", node_id=node, capabilities=["inputs"])
    spec = next(ada.stubs.nodes.ClaimAttempt(claim, metadata=ada.metadata, timeout=CALL_SECONDS)).spec
    assert dict(spec.environment) == {"RUN": "7", "HIVEMIND_INDEX": "7", "HIVEMIND_COUNT": "10"}
    # Done again in turn, it still says so.
    _ended(gateway, f"{done.job_id}.2")
    third = _job_again(ada, done.job_id, states=["FAILED"])
    count = select(jobs.c.array_count, jobs.c.count).where(jobs.c.id == third.job_id)
    assert tuple(gateway.gateway.database.read(lambda c: c.execute(count).one())) == (10, 1)


def test_a_task_of_a_job_is_done_again_with_its_index(gateway: InnerGateway) -> None:
    ada, new = gateway.someone(), new_job_id()
    old = _array(gateway, ada, failed=[4])
    done = _again(ada, f"{old}.4", new, {"max_minutes": 5})
    assert (done.task_id, done.job_id, done.max_minutes) == (f"{new}.4", new, 5)
    assert ada.detail(f"{new}.4").job_index == 4


def test_indices_and_states_say_which(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = _array(gateway, ada, failed=[1, 2])
    assert _job_again(ada, old).tasks == 9
    assert _job_again(ada, old, indexes=[0, 2]).tasks == 2
    assert _job_again(ada, old, indexes=[2], states=["FAILED", "STOPPED"]).tasks == 1
    assert _job_again(ada, old, states=["SUCCEEDED"], changes=pb.UploadTaskRequest(retries=2),
                      changed=["retries"]).most_cpt == 7 * 3 * 3  # fmt: skip


def test_a_job_that_is_done_again_is_whole_or_not_at_all(gateway: InnerGateway) -> None:
    ada, bob, new = gateway.someone(), gateway.someone(), new_job_id()
    old = _array(gateway, ada, failed=[1, 2])
    none = _array(gateway, ada, failed=[])
    changed = pb.UploadTaskRequest(arguments=["x"], replicas=3)
    bad: list[tuple[Callable[[], object], grpc.StatusCode, str]] = [
        (lambda: _job_again(bob, old), GONE, "job"),
        (lambda: _job_again(ada, none, states=["FAILED"]), NOT_ENDED, "no task of job"),
        (lambda: _job_again(ada, old, new, states=["FAILED"], indexes=[1, 3]), NOT_ENDED, "no task 3 that"),
        (lambda: _job_again(ada, old, new, indexes=[9]), NOT_ENDED, "has not ended"),
        (lambda: _job_again(ada, old, new, states=["RUNNING"]), INVALID, "what has ended is done again"),
        (lambda: _job_again(ada, old, new, max_cpt=5), INVALID, "over its max_cpt of 5"),
        (
            lambda: _job_again(ada, old, new, changes=changed, changed=["arguments"]),
            INVALID,
            "each task's own",
        ),
        (lambda: _job_again(ada, old, new, changes=changed, changed=["replicas"]), INVALID, "run once each"),
    ]
    for call, code, words in bad:
        found, told = refused(call)
        assert (found, words in told) == (code, True), told
    kept = select(jobs.c.id).where(jobs.c.id == new)
    assert gateway.gateway.database.read(lambda c: c.execute(kept).all()) == []


def test_the_same_job_id_again_changes_nothing_whatever_has_ended_since(gateway: InnerGateway) -> None:
    ada, new = gateway.someone(), new_job_id()
    old = _array(gateway, ada, failed=[1, 2])
    assert _job_again(ada, old, new, states=["FAILED"]).tasks == 2
    _ended(gateway, f"{old}.9")
    again = _job_again(ada, old, new, states=["FAILED"])
    assert (again.tasks, again.repeated) == (2, True)
    assert refused(lambda: _job_again(ada, old, new, indexes=[1]))[0] is grpc.StatusCode.ALREADY_EXISTS


def test_many_pieces_are_read_as_they_are_put_in(gateway: InnerGateway) -> None:
    ada = gateway.someone()
    old = _array(gateway, ada, failed=range(450), count=500)
    done = _job_again(ada, old, states=["FAILED"])
    assert done.tasks == 450
    query = select(tasks.c.job_index, tasks.c.arguments).where(tasks.c.job_id == done.job_id)
    rows = gateway.gateway.database.read(lambda c: c.execute(query.order_by(tasks.c.job_index)).all())
    assert [row.job_index for row in rows] == list(range(450))
    assert rows[449].arguments == '["44.9","{x}"]'
