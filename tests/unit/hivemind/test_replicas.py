"""What the client sends and shows of tasks with several runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hivemind.cli.render.tasks import jsonable, task_details
from hivemind.models import ReplicaInfo, TaskInfo, task_from_poll
from hivemind.needs import TaskNeeds, needs_to_wire
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb

RECORDS = [
    pb.ReplicaRecord(number=1, node_id="ada/a", state="SUCCEEDED", digest="ab" * 32, verdict="agreed"),
    pb.ReplicaRecord(number=2, node_id="bob/b", state="RUNNING"),
]


def polled(**detail: object) -> TaskInfo:
    fields = {"state": "RUNNING", "replicas": 2, "verification": "pending", "replica_records": RECORDS}
    answer = pb.PollTaskStatusResponse(
        task_id="t", status="RUNNING", detail=pb.TaskDetail(**{**fields, **detail})
    )
    return task_from_poll(answer)


def shown(task: TaskInfo) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(task_details(task, 0.0))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_needs_are_sent_as_they_are() -> None:
    request = needs_to_wire(TaskNeeds(replicas=3, compare_outputs=("out/*.csv", "sum.txt")))
    assert (request.replicas, list(request.compare_outputs)) == (3, ["out/*.csv", "sum.txt"])
    assert needs_to_wire(TaskNeeds()).replicas == 1


def test_the_record_of_each_run_is_shown() -> None:
    task = polled()
    assert task.replica_records[1] == ReplicaInfo(number=2, node="bob/b", state="RUNNING")
    text = shown(task)
    assert "not yet: results are being compared" in text
    row = next(line for line in text.splitlines() if "ada/a" in line)
    assert row.split() == ["1", "ada/a", "SUCCEEDED", "abababababab", "agreed"]
    assert jsonable(task)["replica_records"][0]["digest"] == "ab" * 32


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("agreed", "yes: enough of its runs agree"),
        ("audited", "yes: by an audit of its node"),
        ("disputed", "no: its runs did not agree"),
        ("a word of a later pool", "a word of a later pool"),
    ],
)
def test_verification_is_told_in_words(word: str, sentence: str) -> None:
    assert sentence in shown(polled(verification=word))


def test_a_result_that_may_be_checked_is_told_so() -> None:
    assert "not yet: it may be checked" in shown(polled(replicas=1, replica_records=[]))


def test_a_result_that_is_held_back_is_told_with_its_time_and_no_exit_code() -> None:
    reason = "its result is being checked by another node"
    task = polled(
        replicas=1, replica_records=[], held_back_until=7200.0, reason=reason, started_at=1.0, updated_at=9.0
    )
    assert (task.final, task.held_back_until) == (False, 7200.0)
    text = shown(task)
    assert "is being checked; given in 2 h 0 min at the latest" in text
    assert reason in text
    assert "not yet: it is being checked" in text
    # It does not run any more.
    assert task.run_seconds(now=1000.0) == 8.0
    assert needs_to_wire(TaskNeeds(take_pending=True)).take_pending


def test_an_older_pool_tells_none_of_it() -> None:
    task = polled(replicas=0, verification="", replica_records=[])
    assert (task.replicas, task.state) == (1, TaskState.RUNNING)
    assert "verified" not in shown(task)
