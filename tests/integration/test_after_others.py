"""`after` and `after_any`: accepted, told, gone on with, stopped, refused. A whole gateway, and the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.dependents import DependentKeeper
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import held_back_results
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import job_of, new_job_id, submit_array
from tests.support.dispatchers import open_dispatcher
from tests.support.hostile import refused, upload
from tests.support.inner_gateway import InnerGateway, Running
from tests.support.stores import place
from tests.support.tasks import new_task_id, script
from tests.support.valkey import TestValkey

DATA = script("print('hello')")
SUCCEEDED, FAILED = pb.ATTEMPT_OUTCOME_SUCCEEDED, pb.ATTEMPT_OUTCOME_FAILED


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, newcomer_balance_cpt=1000)
    yield made
    made.close()


def _end(run: Running, outcome: pb.AttemptOutcome.ValueType) -> None:
    message = run.end(cpu_seconds=1.0, outcome=outcome)
    answer = run.account.stubs.nodes.FinishAttempt(
        iter([message]), metadata=run.account.metadata, timeout=CALL_SECONDS
    )
    assert answer.success


def _run(gateway: InnerGateway, account: Account, task_id: str) -> Running:
    """A task that is there already is claimed by the node that `gateway.running` made."""
    node_id = f"{account.username}/node"
    assert gateway.gateway.database.write(lambda connection: place(connection, task_id, node_id))
    running = Running(account, task_id, node_id, f"{task_id}:1")
    claim = pb.ClaimAttemptRequest(attempt_id=running.attempt_id, node_id=node_id, capabilities=["inputs"])
    list(account.stubs.nodes.ClaimAttempt(claim, metadata=account.metadata, timeout=CALL_SECONDS))
    return running


def _is_placed(gateway: InnerGateway, account: Account, task_id: str) -> bool:
    node_id = f"{account.username}/node"
    return gateway.gateway.database.write(lambda connection: place(connection, task_id, node_id))


def test_it_waits_is_told_holds_nothing_and_goes_on_with_the_end_of_the_last(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    first = gateway.running(someone, DATA)
    second = _run(gateway, someone, someone.submit(DATA))
    last = someone.submit(DATA, after=[first.task_id], after_any=[second.task_id])
    told = someone.poll(last)
    assert (told.status, told.detail.state, told.detail.waits_for_others) == ("PENDING", "QUEUED", True)
    words = f"it comes after task {first.task_id}, task {second.task_id}, however it ends"
    assert told.message == told.detail.reason == f"waiting for other tasks: {words}"
    assert (list(told.detail.after), list(told.detail.after_any)) == ([first.task_id], [second.task_id])
    assert (told.detail.held_cpt, told.detail.holds_when_placed) == (0, True)
    explained = someone.stubs.tasks.ExplainTask(
        pb.ExplainTaskRequest(task_id=last), metadata=someone.metadata, timeout=CALL_SECONDS
    )
    assert (explained.message, explained.waits_for_others) == (told.message, True)
    assert explained.estimate_basis == "what it comes after has to end first"
    assert not _is_placed(gateway, someone, last)
    _end(second, FAILED)
    assert someone.detail(last).waits_for_others
    _end(first, SUCCEEDED)
    told = someone.poll(last)
    assert (told.detail.state, told.detail.waits_for_others, told.detail.reason) == ("QUEUED", False, "")
    running = _run(gateway, someone, last)
    assert someone.detail(last).held_cpt > 0
    _end(running, SUCCEEDED)
    assert someone.poll(last).status == "COMPLETED"
    assert ledger_store.verify_database(gateway.gateway.database).problems == []


def test_a_failure_or_a_stop_ends_what_comes_after_and_nobody_pays(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    run = gateway.running(someone, DATA)
    never = someone.submit(DATA, after=[run.task_id])
    job_id = new_job_id()
    submit_array(someone, job_id, 3, after=[never])
    assert (job_of(someone, job_id).job.waiting, dict(job_of(someone, job_id).job.counts)) == (
        3,
        {"QUEUED": 3},
    )
    (why,) = job_of(someone, job_id).reasons
    assert (why.waits_for_others, f"after task {never}" in why.reason) == (True, True)
    _end(run, FAILED)
    told = someone.poll(never)
    assert (told.status, told.detail.paid_cpt, told.detail.held_cpt) == ("STOPPED", 0, 0)
    assert told.message == f"stopped before it ran: it comes after task {run.task_id}, which has failed"
    job = job_of(someone, job_id)
    assert (dict(job.job.counts), job.job.waiting, job.job.paid_cpt) == ({"STOPPED": 3}, 0, 0)
    waits = someone.submit(DATA, after=[(queued := someone.submit(DATA))])
    someone.stop(queued)
    assert someone.detail(waits).reason.endswith(f"comes after task {queued}, which was stopped")


def test_its_owner_can_stop_what_waits_and_what_comes_after_a_stopped_job_never_runs(
    gateway: InnerGateway,
) -> None:
    someone = gateway.someone()
    first, job_id = someone.submit(DATA), new_job_id()
    waits = someone.submit(DATA, after=[first])
    assert someone.stop(waits).success
    assert someone.detail(waits).reason == "stopped by its owner before it ran"
    compared = someone.submit(DATA, after=[first], replicas=3)
    assert someone.detail(compared).held_cpt > 0
    assert someone.stop(compared).success
    assert someone.detail(compared).held_cpt == 0
    submit_array(someone, job_id, 2, after=[first])
    behind = someone.submit(DATA, after=[job_id])
    stop = pb.StopJobRequest(job_id=job_id)
    assert someone.stubs.tasks.StopJob(stop, metadata=someone.metadata, timeout=CALL_SECONDS).stopped == 2
    assert someone.detail(behind).reason.endswith(f"comes after job {job_id}, which was stopped")
    assert ledger_store.verify_database(gateway.gateway.database).problems == []


def test_runs_of_a_task_whose_results_are_compared_come_when_it_goes_on(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    run = gateway.running(someone, DATA)
    compared = someone.submit(DATA, after=[run.task_id], replicas=3)
    assert list(someone.detail(compared).replica_records) == []
    _end(run, SUCCEEDED)
    told = someone.detail(compared)
    assert (told.state, [record.state for record in told.replica_records]) == ("QUEUED", ["QUEUED"] * 3)


def test_sent_again_it_changes_nothing_also_when_it_went_on_and_another_order_is_another_task(
    gateway: InnerGateway,
) -> None:
    someone = gateway.someone()
    run = gateway.running(someone, DATA)
    request = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=DATA, after=[run.task_id])
    assert (upload(someone, request).repeated_upload, upload(someone, request).repeated_upload) == (
        False,
        True,
    )
    _end(run, FAILED)
    assert upload(someone, request).repeated_upload
    assert upload(someone, request).order_kept
    request.after.pop()
    assert refused(lambda: upload(someone, request))[0] is grpc.StatusCode.ALREADY_EXISTS


def test_what_has_succeeded_already_is_not_waited_for(gateway: InnerGateway) -> None:
    someone = gateway.someone()
    run = gateway.running(someone, DATA)
    _end(run, SUCCEEDED)
    task_id = someone.submit(DATA, after=[run.task_id])
    told = someone.detail(task_id)
    assert (told.waits_for_others, told.holds_when_placed, told.held_cpt > 0) == (False, False, True)


def test_what_would_never_run_is_refused_with_what_to_do(gateway: InnerGateway) -> None:
    someone, other = gateway.someone(), gateway.someone()
    run, theirs, own = gateway.running(someone, DATA), other.submit(DATA), new_task_id()
    their_job = new_job_id()
    submit_array(other, their_job, 1)
    _end(run, FAILED)
    cases: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({"after": [run.task_id]}, grpc.StatusCode.FAILED_PRECONDITION, "which has failed: let it come"),
        ({"after": [theirs]}, grpc.StatusCode.NOT_FOUND, "there is no task or job"),
        ({"after": [their_job]}, grpc.StatusCode.NOT_FOUND, "there is no task or job"),
        ({"after_any": ["nothing"]}, grpc.StatusCode.NOT_FOUND, "there is no task or job 'nothing' of yours"),
        ({"after": [own]}, grpc.StatusCode.INVALID_ARGUMENT, "cannot come after itself"),
        ({"after": ["x"] * 101}, grpc.StatusCode.INVALID_ARGUMENT, "at most 100 others, not 101"),
        ({"after": ["a b"]}, grpc.StatusCode.INVALID_ARGUMENT, "is no id of a task or job"),
    ]
    before = len(gateway.packages())
    for what, code, words in cases:
        request = pb.UploadTaskRequest(task_id=own, task_zip=script("print('another')"), **what)
        answers = [refused(lambda: upload(someone, request))]  # noqa: B023
        dry = pb.ExplainTaskRequest(task=request)
        answers.append(
            refused(
                lambda: someone.stubs.tasks.ExplainTask(
                    dry,  # noqa: B023
                    metadata=someone.metadata,
                    timeout=CALL_SECONDS,
                )
            )
        )
        answers.append(refused(lambda: submit_array(someone, own, 2, **what)))  # noqa: B023
        for found, told in answers:
            assert (found, words in told) == (code, True), told
    assert len(gateway.packages()) == before
    assert someone.submit(DATA, after_any=[run.task_id])


def test_the_sweep_lets_go_on_what_nobody_told_of(gateway: InnerGateway, valkey_server: TestValkey) -> None:
    """A held back result is given by the sweep, and a gateway may end between an end and its word."""
    someone, now = gateway.someone(), [gateway.gateway.clock()]
    run = gateway.running(someone, DATA)
    _end(run, SUCCEEDED)
    database = gateway.gateway.database
    held = tasks.update().where(tasks.c.id == run.task_id).values(held_back_until=9e9)
    database.write(lambda c: c.execute(held))
    task_id = someone.submit(DATA, after=[run.task_id])
    with open_dispatcher(valkey_server, gateway.folder, now) as dispatcher:
        loop = PlacementLoop(dispatcher)
        keeper = DependentKeeper(dispatcher, loop)
        keeper.look()
        assert someone.detail(task_id).waits_for_others
        assert database.write(lambda c: held_back_results.give(c, [run.task_id], now[0])) == [run.task_id]
        keeper.look()
        assert not someone.detail(task_id).waits_for_others
        assert task_id in loop._hints
