"""`hivemind submit --retries`, `resubmit` and `job resubmit`, against a server that answers to order."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest

from hivemind import ConflictError, NodePoolClient, RefusedError, TaskNeeds, TaskState, UnsupportedError
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import TOKEN, Shell
from tests.support.scripted_server import Scripted

alice, environment, server, task = command.alice, command.environment, command.server, command.task
stranger = command.stranger


def _accepts(server: Scripted, retries: int = 0) -> None:
    server.answers("UploadTask", pb.UploadTaskResponse(success=True, message="accepted", retries=retries))


def test_retries_are_said_as_people_write_them(server: Scripted, alice: Shell, task: Path) -> None:
    _accepts(server, retries=3)
    done = alice("submit", task, "--retries", "3", "--retry-on", "137, 75", "--backoff", "2m")
    assert (done.code, done.err) == (0, "")
    sent = server.asked["UploadTask"][0]
    assert (sent.retries, list(sent.retry_on), sent.backoff_seconds) == (3, [75, 137], 120)
    # Without them nothing is said, and an older pool is told so.
    alice("submit", task)
    sent = server.asked["UploadTask"][1]
    assert (sent.retries, list(sent.retry_on), sent.backoff_seconds) == (0, [], 0)
    _accepts(server)
    assert "too old for retries" in alice("submit", task, "--retries", "1").err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--retries", "21"], "21 is not in the range 0<=x<=20"),
        (["--retries", "-1"], "-1 is not in the range"),
        (["--retries", "1", "--retry-on", "0"], "exit code 0 is success"),
        (["--retries", "1", "--retry-on", "256"], "must be 1 to 255, not 256"),
        (["--retries", "1", "--retry-on", "-9"], "so 137 if it was killed"),
        (["--retries", "1", "--retry-on", "a"], "give them as 75,137"),
        (["--retries", "1", "--retry-on", ""], "give them as 75,137"),
        (["--retries", "1", "--backoff", "soon"], "give it as 30s, 5m or 1h"),
        (["--retries", "1", "--backoff", "1.5s"], "give it as 30s, 5m or 1h"),
        (["--retries", "1", "--backoff", "0s"], "the shortest wait is 1s"),
        (["--retries", "1", "--backoff", "2h"], "the longest wait is 60m"),
        (["--retry-on", "75"], "--retry-on goes with --retries"),
        (["--backoff", "5s"], "--backoff goes with --retries"),
    ],
)
def test_retries_that_cannot_be_are_refused_before_anything_is_sent(
    server: Scripted, alice: Shell, task: Path, options: list[str], words: str
) -> None:
    done = alice("submit", task, *options)
    assert (done.code, words in done.err) == (2, True), done.err
    assert "UploadTask" not in server.asked


def test_what_no_pool_takes_the_sdk_refuses_itself() -> None:
    for needs in (
        {"retries": 1, "replicas": 2}, {"retry_on": (0,)},
        {"retries": -1}, {"backoff_seconds": 3601},
    ):  # fmt: skip
        with pytest.raises(RefusedError):
            TaskNeeds(**needs)  # type: ignore[arg-type]


def test_status_shows_the_tries_and_when_the_next_is(server: Scripted, alice: Shell) -> None:
    tried = pb.AttemptRecord(number=1, node_id="n", state="finished", exit_code=75, has_exit_code=True)
    detail = pb.TaskDetail(
        state="QUEUED", retries=3, retry_on=[75, 137], backoff_seconds=30, tries_failed=1,
        next_try_at=time.time() + 1000, attempts=[tried], resubmit_of="before",
        reason="try 1 of 4 failed (exit code 75); it is tried again",
    )  # fmt: skip
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t", status="PENDING", detail=detail))
    shown = alice("status", "t").out
    for words in ("3 after 75, 137; failed 1 time, last with exit code 75", "16 min", "before", "try 1 of 4"):
        assert words in shown
    told = alice("status", "t", "--json").answer
    assert (told["retries"], told["retry_on"], told["tries_failed"], told["resubmit_of"]) == (
        3, [75, 137], 1, "before",
    )  # fmt: skip
    assert told["next_try_at"] == detail.next_try_at


def test_a_task_is_done_again_with_what_is_to_be_different(server: Scripted, alice: Shell) -> None:
    def again(request: pb.ResubmitTaskRequest, _context: grpc.ServicerContext) -> pb.ResubmitTaskResponse:
        return pb.ResubmitTaskResponse(success=True, message="accepted", task_id=request.new_task_id)

    server.on("ResubmitTask", again)
    done = alice("resubmit", "old", "--max-minutes", "5", "--retries", "0", "--task-id", "new")
    assert (done.code, done.out) == (0, "new\n")
    sent = server.asked["ResubmitTask"][0]
    assert (sent.task_id, sent.new_task_id, sorted(sent.changed)) == (
        "old",
        "new",
        ["max_minutes", "retries"],
    )
    assert sent.changes.max_minutes == 5
    # Each of several has an id of its own, and nothing else is said.
    done = alice("resubmit", "a", "b", "a", "--json")
    assert [it["resubmit_of"] for it in done.answer] == ["a", "b"]
    one, other = server.asked["ResubmitTask"][1:]
    assert (one.new_task_id != other.new_task_id, list(one.changed)) == (True, [])
    assert alice("resubmit", "a", "b", "--task-id", "new").code == 2


def test_of_several_those_that_cannot_be_are_named_and_the_others_are_sent(
    server: Scripted, alice: Shell
) -> None:
    def again(request: pb.ResubmitTaskRequest, context: grpc.ServicerContext) -> pb.ResubmitTaskResponse:
        if request.task_id == "runs":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "task runs has not ended")
        return pb.ResubmitTaskResponse(success=True, message="accepted", task_id="new")

    server.on("ResubmitTask", again)
    done = alice("resubmit", "ended", "runs")
    assert (done.out, "runs: task runs has not ended" in done.err) == ("new\n", True)
    assert done.code == ConflictError.exit_code
    assert alice("resubmit", "runs").code == ConflictError.exit_code


def test_tasks_of_a_job_are_done_again(server: Scripted, alice: Shell) -> None:
    answer = pb.SubmitArrayResponse(success=True, message="ok", job_id="new", tasks=2, most_cpt=20)
    server.answers("ResubmitJob", answer)
    done = alice("job", "resubmit", "old", "--failed", "--index", "1,5-7", "--priority", "9")
    assert (done.code, done.out, "2 tasks of old again, at most 20 CPT" in done.err) == (0, "new\n", True)
    sent = server.asked["ResubmitJob"][0]
    assert (list(sent.states), list(sent.indexes), list(sent.changed)) == (
        ["FAILED"], [1, 5, 6, 7], ["priority"],
    )  # fmt: skip
    alice("job", "resubmit", "old", "--all", "--new-job-id", "mine", "--max-cpt", "7")
    sent = server.asked["ResubmitJob"][1]
    assert (list(sent.states), sent.new_job_id, sent.max_cpt) == ([], "mine", 7)
    for options in ([], ["--failed", "--all"], ["--failed", "--index", "5-1"]):
        assert alice("job", "resubmit", "old", *options).code != 0
    assert len(server.asked["ResubmitJob"]) == 2


def test_the_sdk_does_it_too_and_says_what_it_cannot(server: Scripted) -> None:
    answer = pb.SubmitArrayResponse(success=True, message="ok", job_id="new", tasks=2, most_cpt=20)
    server.answers("ResubmitJob", answer)
    with NodePoolClient(server.address, token=TOKEN) as pool:
        done = pool.resubmit_job("old", TaskState.FAILED, indices=[3], memory_gb=2)
        assert (done.job_id, done.tasks) == ("new", 2)
        sent = server.asked["ResubmitJob"][0]
        assert (list(sent.states), list(sent.indexes), sent.changes.memory_gb) == (["FAILED"], [3], 2)
        for bad in ({"deadline": 1}, {"max_minutes": -1}, {"priority": 10}):
            with pytest.raises(RefusedError):
                pool.resubmit("old", **bad)
        with pytest.raises(RefusedError):
            pool.resubmit("old", new_task_id="a b")
        with pytest.raises(RefusedError):
            pool.resubmit_job("old", indices=[2**40])
        server.answers("ResubmitTask", grpc.StatusCode.UNIMPLEMENTED)
        with pytest.raises(UnsupportedError, match="too old to do a task again"):
            pool.resubmit("old")
