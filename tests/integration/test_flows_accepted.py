"""SubmitFlow: whole or not at all, idempotent, run step by step, with results handed on and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, Update, func, select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import removal
from nodepool.stores.sql.job_tables import dependencies, job_steps
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.tables import jobs, storage_accounts, tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.arrays import PACKAGE, job_of, new_job_id
from tests.support.flows import Step, counts_of, flow_messages, submit_flow
from tests.support.hostile import refused
from tests.support.inner_gateway import InnerGateway, Running
from tests.support.stores import place
from tests.support.tasks import package, script
from tests.support.valkey import TestValkey

OTHER = package({"main.py": "print('other')"})
SPLIT_COUNT_SUM = (
    Step(name="sum", needs=["count"], task={"arguments": ["{count.result}"]}),
    Step(name="split", zip_bytes=OTHER),
    Step(name="count", needs=["split"], count=3, task={"arguments": ["{split.result}", "{index}"]}),
)
RESULT = package({"task_logs.txt": "", "part.txt": "1"})


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"), valkey_server, newcomer_balance_cpt=10_000, max_flow_inputs_mb=1
    )
    yield made
    made.close()


def _claim(gateway: InnerGateway, account: Account, task_id: str) -> tuple[Running, pb.AttemptSpec]:
    node_id = f"{account.username}/node"
    assert gateway.gateway.database.write(lambda connection: place(connection, task_id, node_id))
    running = Running(account, task_id, node_id, f"{task_id}:1")
    claim = pb.ClaimAttemptRequest(
        attempt_id=running.attempt_id, node_id=node_id, capabilities=["inputs", "results"]
    )
    answers = list(account.stubs.nodes.ClaimAttempt(claim, metadata=account.metadata, timeout=CALL_SECONDS))
    return running, answers[0].spec


def _finish(run: Running, result: bytes = RESULT, **told: Any) -> None:
    messages = [run.end(result, cpu_seconds=1.0, **told), pb.FinishAttemptRequest(result_chunk=result)]
    run.account.stubs.nodes.FinishAttempt(iter(messages), metadata=run.account.metadata, timeout=CALL_SECONDS)


def _fetch(run: Running, number: int) -> bytes:
    request = pb.FetchInputRequest(node_id=run.node_id, attempt_id=run.attempt_id, number=number)
    answers = run.account.stubs.nodes.FetchInput(request, metadata=run.account.metadata, timeout=CALL_SECONDS)
    return b"".join(answer.chunk for answer in answers)


def _run(statement: Update) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(statement)


def _with_node(gateway: InnerGateway) -> Account:
    someone = gateway.someone()
    gateway.running(someone, script("print('a node of its own')"))
    return someone


def test_a_flow_is_one_job_whose_steps_come_after_each_other(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    answer = submit_flow(someone, job_id, SPLIT_COUNT_SUM, name="words", labels={"run": "1"})
    assert (answer.tasks, answer.most_cpt, answer.repeated) == (5, 300, False)
    told = job_of(someone, job_id)
    assert (told.job.kind, told.job.name, dict(told.job.labels), told.job.tasks, told.job.waiting) == (
        "flow", "words", {"run": "1"}, 5, 4,
    )  # fmt: skip
    assert counts_of(told) == {"sum": {"WAITING": 1}, "split": {"QUEUED": 1}, "count": {"WAITING": 3}}
    assert [list(step.needs) for step in told.steps] == [["count"], [], ["split"]]
    detail = someone.detail(f"{job_id}.count.1")
    assert (list(detail.arguments), detail.name, dict(detail.labels)) == (
        ["inputs/split", "1"], "words", {"run": "1"},
    )  # fmt: skip
    assert detail.reason == "waiting for other tasks: it comes after step split"
    run, spec = _claim(gateway, someone, f"{job_id}.split")
    assert (list(spec.inputs), "HIVEMIND_INDEX" in spec.environment) == ([], False)
    _finish(run)
    assert counts_of(job_of(someone, job_id))["count"] == {"QUEUED": 3}
    runs = [_claim(gateway, someone, f"{job_id}.count.{index}") for index in range(3)]
    assert [(one.path, one.result_bytes) for one in runs[0][1].inputs] == [("split", len(RESULT))]
    assert dict(runs[2][1].environment) == {"HIVEMIND_INDEX": "2", "HIVEMIND_COUNT": "3"}
    assert _fetch(runs[0][0], 0) == RESULT
    for run, _ in runs:
        assert someone.detail(f"{job_id}.sum").waits_for_others
        _finish(run)
    last, spec = _claim(gateway, someone, f"{job_id}.sum")
    assert [one.path for one in spec.inputs] == ["count/0", "count/1", "count/2"]
    _finish(last)
    assert counts_of(job_of(someone, job_id)) == {
        "sum": {"SUCCEEDED": 1}, "split": {"SUCCEEDED": 1}, "count": {"SUCCEEDED": 3},
    }  # fmt: skip
    assert ledger_store.verify_database(gateway.gateway.database).problems == []


def test_a_step_that_fails_stops_what_comes_after_and_no_other_step(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    steps = [
        *SPLIT_COUNT_SUM,
        Step(name="tell", needs_any=["sum"], task={"environment": {"WHERE": "{sum.result}"}}),
        Step(name="beside"),
    ]
    submit_flow(someone, job_id, steps)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run, outcome=pb.ATTEMPT_OUTCOME_FAILED, exit_code=3)
    told = job_of(someone, job_id)
    assert counts_of(told) == {
        "split": {"FAILED": 1}, "count": {"STOPPED": 3}, "sum": {"STOPPED": 1}, "tell": {"QUEUED": 1},
        "beside": {"QUEUED": 1},
    }  # fmt: skip
    words = {reason.reason: reason.tasks for reason in told.reasons if reason.state == "STOPPED"}
    assert words == {
        "stopped before it ran: it comes after step split, which has failed": 3,
        "stopped before it ran: it comes after step count, which was stopped": 1,
    }
    _, spec = _claim(gateway, someone, f"{job_id}.tell")
    assert list(spec.inputs) == []  # what was stopped has made nothing


def test_the_same_again_changes_nothing_and_the_package_is_counted_once(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    assert submit_flow(someone, job_id, SPLIT_COUNT_SUM).repeated
    code, words = refused(lambda: submit_flow(someone, job_id, SPLIT_COUNT_SUM[1:2]))
    assert (code, "another job" in words) == (grpc.StatusCode.ALREADY_EXISTS, True)
    query = select(storage_accounts.c.bytes).where(storage_accounts.c.user_id == gateway.user_id(someone))
    kept = gateway.gateway.database.read(lambda c: c.execute(query).scalar_one())
    assert kept == len(PACKAGE) + len(OTHER)


def test_its_owner_stops_all_of_it(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    request = pb.StopJobRequest(job_id=job_id)
    assert someone.stubs.tasks.StopJob(request, metadata=someone.metadata, timeout=CALL_SECONDS).stopped == 5
    told = job_of(someone, job_id)
    assert {state for counts in counts_of(told).values() for state in counts} == {"STOPPED"}


def test_tasks_of_one_step_are_listed_alone(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    request = pb.ListJobTasksRequest(job_id=job_id, step="count", page_size=2)
    call = someone.stubs.tasks.ListJobTasks
    first = call(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    request.from_index = first.next_index
    rest = call(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    assert [task.task_id for task in (*first.tasks, *rest.tasks)] == [f"{job_id}.count.{n}" for n in range(3)]
    assert rest.next_index == 0
    request.step = "nothing"
    code, words = refused(lambda: call(request, metadata=someone.metadata, timeout=CALL_SECONDS))
    assert (code, "has no step 'nothing': sum, split, count" in words) == (
        grpc.StatusCode.INVALID_ARGUMENT, True,
    )  # fmt: skip


def test_results_stay_and_cannot_be_deleted_until_the_flow_has_ended(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    database, split = gateway.gateway.database, f"{job_id}.split"
    assert split not in {it.task_id for it in database.read(lambda c: removal.with_files(c, 9e9, 100))}
    request = pb.DeleteTaskRequest(task_id=split)
    code, words = refused(
        lambda: someone.stubs.tasks.DeleteTask(request, metadata=someone.metadata, timeout=CALL_SECONDS)
    )
    assert (code, "a flow that has not ended" in words) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    database.write(lambda c: c.execute(jobs.update().where(jobs.c.id == job_id).values(ended_at=9.0)))
    assert split in {it.task_id for it in database.read(lambda c: removal.with_files(c, 9e9, 100))}


def test_more_than_one_run_may_be_given_stops_the_step_with_the_bound(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    for index in range(3):
        run, _ = _claim(gateway, someone, f"{job_id}.count.{index}")
        if index == 2:
            grown = tasks.update().where(tasks.c.job_id == job_id, tasks.c.job_index > 1)
            gateway.gateway.database.write(_run(grown.values(result_bytes=1 << 20)))
        _finish(run)
    told = someone.poll(f"{job_id}.sum")
    assert told.status == "STOPPED"
    assert "over the 1 MiB that this pool gives to one run" in told.message


def test_a_node_fetches_the_inputs_of_what_it_runs_and_of_nothing_else(gateway: InnerGateway) -> None:
    someone, other, job_id = _with_node(gateway), _with_node(gateway), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    count, _ = _claim(gateway, someone, f"{job_id}.count.0")
    assert refused(lambda: _fetch(count, 1))[0] is grpc.StatusCode.INVALID_ARGUMENT
    theirs = Running(other, count.task_id, count.node_id, count.attempt_id)
    assert refused(lambda: _fetch(theirs, 0))[0] is grpc.StatusCode.NOT_FOUND
    _finish(count)
    assert refused(lambda: _fetch(count, 0))[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_an_agent_that_passes_no_results_on_does_not_get_the_task(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    task_id = f"{job_id}.count.0"
    assert gateway.gateway.database.write(lambda c: place(c, task_id, run.node_id))
    claim = pb.ClaimAttemptRequest(attempt_id=f"{task_id}:1", node_id=run.node_id, capabilities=["inputs"])
    code, _ = refused(
        lambda: someone.stubs.nodes.ClaimAttempt(claim, metadata=someone.metadata, timeout=CALL_SECONDS)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION


def _again(account: Account, job_id: str, new_id: str, *states: str, **more: Any) -> pb.SubmitArrayResponse:
    request = pb.ResubmitJobRequest(job_id=job_id, new_job_id=new_id, states=states, **more)
    return account.stubs.tasks.ResubmitJob(request, metadata=account.metadata, timeout=CALL_SECONDS)


def test_a_flow_goes_on_from_where_it_failed_with_the_results_of_what_succeeded(
    gateway: InnerGateway,
) -> None:
    someone, job_id, new_id, last_id = _with_node(gateway), new_job_id(), new_job_id(), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM, name="words")
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    for index in range(3):
        run, _ = _claim(gateway, someone, f"{job_id}.count.{index}")
        failed = {"outcome": pb.ATTEMPT_OUTCOME_FAILED, "exit_code": 3} if index == 1 else {}
        _finish(run, **failed)
    assert counts_of(job_of(someone, job_id))["sum"] == {"STOPPED": 1}
    answer = _again(someone, job_id, new_id, "FAILED")
    assert (answer.tasks, answer.most_cpt, answer.repeated) == (2, 120, False)
    assert _again(someone, job_id, new_id, "FAILED").repeated
    told = job_of(someone, new_id)
    assert (told.job.kind, told.job.name, told.job.tasks, told.job.resubmit_of) == (
        "flow",
        "words",
        2,
        job_id,
    )
    assert counts_of(told) == {"split": {}, "count": {"QUEUED": 1}, "sum": {"WAITING": 1}}
    # Once more in vain, and from there once more: results of the first flow are found over both.
    run, spec = _claim(gateway, someone, f"{new_id}.count.1")
    assert dict(spec.environment) == {"HIVEMIND_INDEX": "1", "HIVEMIND_COUNT": "3"}
    assert [one.path for one in spec.inputs] == ["split"]
    _finish(run, outcome=pb.ATTEMPT_OUTCOME_FAILED, exit_code=3)
    assert _again(someone, new_id, last_id, "FAILED").tasks == 2
    run, _ = _claim(gateway, someone, f"{last_id}.count.1")
    other = package({"task_logs.txt": "", "part.txt": "another"})
    _finish(run, other)
    run, spec = _claim(gateway, someone, f"{last_id}.sum")
    assert [one.path for one in spec.inputs] == ["count/0", "count/1", "count/2"]
    assert [_fetch(run, number) for number in range(3)] == [RESULT, other, RESULT]
    _finish(run)
    assert counts_of(job_of(someone, last_id)) == {
        "split": {}, "count": {"SUCCEEDED": 1}, "sum": {"SUCCEEDED": 1},
    }  # fmt: skip
    assert ledger_store.verify_database(gateway.gateway.database).problems == []


def test_what_cannot_go_on_is_refused_with_what_to_do(gateway: InnerGateway) -> None:
    someone, job_id = _with_node(gateway), new_job_id()
    submit_flow(someone, job_id, SPLIT_COUNT_SUM)
    state = grpc.StatusCode.FAILED_PRECONDITION
    code, words = refused(lambda: _again(someone, job_id, new_job_id(), "FAILED"))
    assert (code, "there is nothing to do again" in words) == (state, True)
    run, _ = _claim(gateway, someone, f"{job_id}.split")
    _finish(run)
    someone.stop(f"{job_id}.count.1")
    code, words = refused(lambda: _again(someone, job_id, new_job_id(), "FAILED"))
    assert (code, "(--failed --stopped)" in words) == (state, True)
    code, words = refused(lambda: _again(someone, job_id, new_job_id(), "STOPPED"))
    assert (code, "did not succeed and are not done again" in words) == (state, True)
    code, words = refused(lambda: _again(someone, job_id, new_job_id(), indexes=[1]))
    assert (code, "is said by states" in words) == (INVALID, True)
    assert refused(lambda: _again(gateway.someone(), job_id, new_job_id()))[0] is grpc.StatusCode.NOT_FOUND


INVALID = grpc.StatusCode.INVALID_ARGUMENT
BAD: list[tuple[str, Callable[[Account, str], object], grpc.StatusCode, str]] = [
    ("none", lambda a, j: submit_flow(a, j, []), INVALID, "1 to 100 steps, not 0"),
    (
        "circle",
        lambda a, j: submit_flow(a, j, [Step(name="a", needs=["b"]), Step(name="b", needs=["a"])]),
        INVALID,
        "in a circle",
    ),
    ("itself", lambda a, j: submit_flow(a, j, [Step(name="a", needs=["a"])]), INVALID, "come after itself"),
    ("unknown", lambda a, j: submit_flow(a, j, [Step(name="a", needs=["b"])]), INVALID, "is no step"),
    (
        "result of another",
        lambda a, j: submit_flow(a, j, [Step(name="a"), Step(name="b", task={"arguments": ["{a.result}"]})]),
        INVALID,
        "does not come after 'a'",
    ),
    (
        "unknown value",
        lambda a, j: submit_flow(a, j, [Step(name="a", task={"arguments": ["{lr}"]})]),
        INVALID,
        "no task has a value for",
    ),
    ("too many", lambda a, j: submit_flow(a, j, [Step(name="a", count=100_001)]), INVALID, "at most 100000"),
    (
        "replicas",
        lambda a, j: submit_flow(a, j, [Step(name="a", task={"replicas": 2})]),
        INVALID,
        "once each",
    ),
    (
        "dear",
        lambda a, j: submit_flow(a, j, SPLIT_COUNT_SUM, max_cpt=299),
        INVALID,
        "can cost 300 CPT, over its max_cpt of 299",
    ),
    (
        "no money",
        lambda a, j: submit_flow(a, j, [Step(name="a", task={"memory_gb": 1000, "max_minutes": 60})]),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CPT",
    ),
    (
        "after another's",
        lambda a, j: submit_flow(a, j, [Step(name="a", task={"after": ["nothing"]})]),
        grpc.StatusCode.NOT_FOUND,
        "no task or job 'nothing'",
    ),
    (
        "no package",
        lambda a, j: submit_flow(a, j, [Step(name="a", zip_bytes=b"no zip")]),
        INVALID,
        "ZIP",
    ),
]


@pytest.mark.parametrize(("call", "code", "words"), [it[1:] for it in BAD], ids=[it[0] for it in BAD])
def test_what_is_no_flow_is_refused_and_nothing_of_it_is_there(
    gateway: InnerGateway, call: Callable[[Account, str], object], code: grpc.StatusCode, words: str
) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    found, told = refused(lambda: call(someone, job_id))
    assert (found, words in told) == (code, True), told
    for table in (tasks.c.job_id, job_steps.c.job_id, jobs.c.id, dependencies.c.dependent_id):
        query = select(func.count()).where(table == job_id)
        assert gateway.gateway.database.read(lambda c: c.execute(query).scalar_one()) == 0  # noqa: B023


def test_a_flow_that_comes_in_parts_is_not_taken_for_whole(gateway: InnerGateway) -> None:
    someone, job_id = gateway.someone(), new_job_id()
    messages = list(flow_messages(job_id, SPLIT_COUNT_SUM))
    for some in (messages[:-1], [messages[0], *messages[2:]], messages[1:]):
        call = someone.stubs.tasks.SubmitFlow
        code, _ = refused(lambda: call(iter(some), metadata=someone.metadata))  # noqa: B023
        assert code is INVALID
    assert gateway.is_idle()
    assert gateway.left_on_their_way() == []
