"""`hivemind ls`, `wait`, and the ways to name tasks, against a server that answers to order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import RESULT, Shell
from tests.support.scripted_server import Scripted, in_chunks, output, state

alice, environment, server = command.alice, command.environment, command.server
stranger = command.stranger

UNFINISHED = {state.value for state in TaskState if state not in FINAL_TASK_STATES}
ENDED = pb.TaskDetail(
    state="FAILED", exit_code=3, has_exit_code=True, reason="exit code 3", name="n", has_result=True
)


def entry(task_id: str, word: str = "FAILED", **detail: Any) -> pb.TaskStatus:
    told = pb.TaskDetail(
        state="SUCCEEDED" if word == "COMPLETED" else word, created_at=time.time() - 60, **detail
    )
    return pb.TaskStatus(task_id=task_id, status=word, detail=told)


def lists(server: Scripted, *entries: pb.TaskStatus) -> None:
    """Two a page."""

    def page(request: pb.ListTasksRequest, _context: grpc.ServicerContext) -> pb.ListTasksResponse:
        at = int(request.page_token or 0)
        size = min(2, request.page_size)
        following = str(at + size) if at + size < len(entries) else ""
        return pb.ListTasksResponse(success=True, tasks=entries[at : at + size], next_page_token=following)

    server.on("ListTasks", page)


def knows(server: Scripted, *ids: str) -> None:
    """The pool's rule, for ids of tasks, and of jobs where they begin so."""

    def resolved(name: str) -> pb.ResolvedId:
        fitting = [each for each in ids if each == name] or [each for each in ids if each.startswith(name)]
        if len(fitting) != 1:
            problem = "several ids" if fitting else f"there is no task {name!r} of yours"
            return pb.ResolvedId(name=name, problem=problem, candidates=fitting)
        (found,) = fitting
        return pb.ResolvedId(name=name, **{"job_id" if found.startswith("job") else "task_id": found})

    server.on("ResolveIds", lambda request, _: pb.ResolveIdsResponse(ids=map(resolved, request.names)))


# -- ls --------------------------------------------------------------------------------------------------
def test_the_pool_filters_and_pages(server: Scripted, alice: Shell) -> None:
    lists(server, *(entry(f"t{number}", name="n") for number in range(5)))
    options = "--name n --label k=v --label l= --state failed --state QUEUED --node bob/pc --since 1h"
    done = alice("ls", "--json", *options.split())
    assert [task["task_id"] for task in done.answer] == ["t0", "t1", "t2", "t3", "t4"]
    asked = server.asked["ListTasks"][0]
    assert (asked.filter.name, dict(asked.filter.labels), asked.filter.node_id) == (
        "n",
        {"k": "v", "l": ""},
        "bob/pc",
    )
    assert list(asked.filter.states) == ["FAILED", "QUEUED"]
    assert 3500 < time.time() - asked.filter.since < 3700
    assert [request.page_token for request in server.asked["ListTasks"]] == ["", "2", "4"]
    assert alice("ls", "-q", "--limit", "3").out == "t0\nt1\nt2\n"
    assert alice("ls", "-q", "--json").answer == ["t0", "t1", "t2", "t3", "t4"]
    limited = alice("ls", "--limit", "1", "--columns", "state,task")
    assert limited.out.split() == ["STATE", "TASK", "FAILED", "t0"]
    assert "--limit 0 shows all" in limited.err
    assert "--limit 0" not in alice("ls", "--limit", "5").err
    assert alice("ls", "--status", "pending", "-q").code == 0
    assert (
        {"QUEUED", "PLACED"} <= set(server.asked["ListTasks"][-1].filter.states) <= UNFINISHED - {"RUNNING"}
    )


def test_a_pipe_gets_whole_reasons(server: Scripted, alice: Shell) -> None:
    reason = "why it is so " * 30
    lists(server, entry("t" * 128, reason=reason, assigned_node="n" * 129))
    shown = alice("ls").out
    assert "t" * 128 in shown
    assert reason.strip() in shown
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--since", "yesterday"], 2, "is no time such as"),
        (["--until", "2026-02-30"], 2, "is not in the calendar"),
        (["--since", "1h", "--until", "2h"], 6, "nothing lies between"),
        (["--state", "DONE"], 2, "DONE"),
        (["--status", "PENDING", "--state", "FAILED"], 2, "no task with status PENDING is FAILED"),
        (["--label", "k"], 2, "give it as KEY=VALUE"),
        (["--label", "=v"], 6, "a label's key"),
        (["--label", "k=\x1b[2J"], 6, "printable"),
        (["--label", "k=" + "v" * 129], 6, "at most 128"),
        (["--name", "n" * 129], 6, "at most 128"),
        (["--node", "no node"], 6, "node_id must be"),
        (["--columns", "reasons"], 2, "did you mean 'reason'?"),
        (["--columns", ","], 2, "name some of"),
        (["-q", "--columns", "task"], 2, "take one of them"),
        (["--limit", "x"], 2, "limit"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_sent(
    server: Scripted, alice: Shell, words: list[str], code: int, problem: str
) -> None:
    done = alice("ls", *words)
    assert (done.code, problem in " ".join(done.err.split())) == (code, True), done.err
    assert server.asked == {}


def test_an_older_pool_is_filtered_here(server: Scripted, alice: Shell) -> None:
    tasks = [
        entry("a", name="n", labels={"k": "v"}),
        entry("b", "QUEUED"),
        entry("c", "RUNNING", assigned_node="x"),
    ]
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True, tasks=tasks))
    for words, found in (
        (["--name", "n"], "a\n"),
        (["--label", "k=v"], "a\n"),
        (["--state", "QUEUED", "--state", "RUNNING"], "b\nc\n"),
        (["--node", "x"], "c\n"),
        (["--until", "1d"], ""),
        (["--limit", "1"], "c\n"),
    ):
        assert "".join(sorted(alice("ls", "-q", *words).out.splitlines(keepends=True))) == found


# -- what is named ---------------------------------------------------------------------------------------
def test_a_beginning_is_enough_and_a_whole_id_is_not_asked_about(server: Scripted, alice: Shell) -> None:
    knows(server, "train-1", "train-2", "job_a")
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(status="FAILED", detail=ENDED))
    assert alice("status", "train-1").code == 0
    several = alice("status", "train", "--json")
    assert (several.code, several.error["code"]) == (6, "refused")
    assert "write more of it" in several.error["hint"]
    assert alice("status", "other").code == 4
    job = alice("status", "job_", "--json")
    assert (job.code, "is a job" in job.error["message"]) == (6, True)
    asked = len(server.asked["ResolveIds"])
    alice("status", "task_20260101_000000_0badcafe")
    assert len(server.asked["ResolveIds"]) == asked
    for bad in ("../x", "a b", "a\x1bb"):
        assert alice("stop", bad).code == 6
    assert len(server.asked["ResolveIds"]) == asked


def test_a_pool_that_names_something_else_is_not_obeyed(server: Scripted, alice: Shell) -> None:
    for other in (
        pb.ResolvedId(name="mine", task_id="another"),
        pb.ResolvedId(name="mine", task_id="mine/../.."),
    ):
        server.answers("ResolveIds", pb.ResolveIdsResponse(ids=[other]))
        for what in (["stop", "mine"], ["result", "mine"], ["rm", "mine"]):
            assert alice(*what).code == 1
    lists(server, entry("../../x"))
    assert alice("result", "--label", "k=v").code == 1
    assert set(server.asked) == {"ResolveIds", "ListTasks"}


def test_several_are_stopped_and_one_that_has_ended_is_named(server: Scripted, alice: Shell) -> None:
    knows(server, "a", "b", "job_j")
    server.on(
        "StopTask",
        lambda request, _: pb.StopTaskResponse(
            success=request.task_id == "a", message=f"of {request.task_id}"
        ),
    )
    server.answers("StopJob", pb.StopJobResponse(success=True, stopped=7))
    done = alice("stop", "a", "b", "job_j", "a", "--json")
    assert done.code == 6
    assert [it.get("task_id", it.get("job_id")) for it in done.answer] == ["a", "b", "job_j"]
    assert done.answer[1]["error"]["code"] == "conflict"
    assert done.answer[2]["stopped"] == 7
    assert len(server.asked["StopTask"]) == 2
    # Where one of them is nothing, nothing is done.
    assert alice("stop", "a", "nothing").code == 4
    assert len(server.asked["StopTask"]) == 2
    lists(server, entry("a", "RUNNING"), entry("c", "QUEUED"))
    assert [it["task_id"] for it in alice("stop", "--label", "k=v", "--json").answer] == ["a", "c"]
    assert set(server.asked["ListTasks"][-1].filter.states) == UNFINISHED
    lists(server)
    assert alice("stop", "--label", "k=v").code == 4
    for wrong in ([], ["a", "--label", "k=v"]):
        assert alice("stop", *wrong).code == 2


def test_output_of_several_stands_under_their_ids(server: Scripted, alice: Shell) -> None:
    knows(server, "a", "b", "job_j")
    server.on(
        "GetTaskLogs", lambda request, _: pb.GetTaskLogsResponse(success=True, logs=f"{request.task_id}!\n")
    )
    assert alice("logs", "a", "b").out == "==> a <==\na!\n==> b <==\nb!\n"
    assert alice("logs", "a", "b", "--json").answer == [
        {"task_id": "a", "logs": "a!\n"}, {"task_id": "b", "logs": "b!\n"},
    ]  # fmt: skip
    assert alice("logs", "job_j").code == 6


@pytest.mark.parametrize(
    ("ids", "options", "code"),
    [
        (["a"], [], 0),
        (["a"], ["--exit-status"], 3),
        (["b"], ["--exit-status"], 0),
        (["b", "a"], ["--exit-status"], 3),
    ],
)
def test_following_may_end_with_the_tasks_exit_code(
    server: Scripted, alice: Shell, ids: list[str], options: list[str], code: int
) -> None:
    knows(server, "a", "b")
    ends = {
        "a": [output(1, 0, b"of a\n"), state("FAILED", exit_code=3, has_exit_code=True)],
        "b": [output(1, 0, b"of b\n"), state("SUCCEEDED", has_exit_code=True)],
    }
    server.on("WatchTask", lambda request, _: iter(ends[request.task_id]))
    done = alice("logs", "-f", *ids, *options)
    assert done.code == code
    assert [line for line in done.out.splitlines() if "==>" not in line] == [f"of {each}" for each in ids]
    assert alice("logs", "a", "--exit-status").code == 2


def test_results_of_several_come_each_into_its_own_and_over_nothing(
    server: Scripted, alice: Shell, tmp_path: Path
) -> None:
    knows(server, "a", "b")
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    out = tmp_path / "out"
    done = alice("result", "a", "b", "--output", out, "--json")
    assert [it["path"] for it in done.answer] == [str(out / "a"), str(out / "b")]
    assert (out / "b" / "answer.txt").read_text() == "42"
    (out / "a" / "answer.txt").write_text("mine")
    (out / "b" / "answer.txt").unlink()
    (out / "b").rmdir()
    again = alice("result", "a", "b", "--output", out)
    assert (again.code, "a: " in again.err) == (6, True)
    assert (out / "a" / "answer.txt").read_text() == "mine"
    assert (out / "b" / "answer.txt").read_text() == "42"
    assert alice("result", "a", "b", "--output", out, "--force").code == 0
    lists(server, entry("c"))
    assert alice("result", "--label", "k=v").code == 0
    assert Path("c/answer.txt").read_text() == "42"
    assert set(server.asked["ListTasks"][0].filter.states) == {"SUCCEEDED", "FAILED", "STOPPED"}
    assert alice("result", "a", "b", "--zip", tmp_path / "z").code == 2


def test_what_has_ended_is_done_again_by_its_label_or_the_beginning_of_its_id(
    server: Scripted, alice: Shell
) -> None:
    knows(server, "train-1", "job_j")
    server.on(
        "ResubmitTask",
        lambda request, _: pb.ResubmitTaskResponse(success=True, task_id=request.new_task_id),
    )
    lists(server, entry("a"), entry("b"))
    assert len(alice("resubmit", "--label", "k=v", "--json").answer) == 2
    assert set(server.asked["ListTasks"][0].filter.states) == {"SUCCEEDED", "FAILED", "STOPPED"}
    assert alice("resubmit", "train", "--task-id", "new", "--json").answer["resubmit_of"] == "train-1"
    assert [request.task_id for request in server.asked["ResubmitTask"]] == ["a", "b", "train-1"]
    server.answers("ResubmitJob", pb.SubmitArrayResponse(success=True, job_id="job_k", tasks=2))
    assert alice("job", "resubmit", "job_", "--failed").code == 0
    assert server.asked["ResubmitJob"][0].job_id == "job_j"


# -- wait ------------------------------------------------------------------------------------------------
def ends(server: Scripted, *events: pb.WatchTasksResponse) -> None:
    server.on("WatchTasks", lambda *_: iter(events))


def of(task_id: str, word: str, **detail: Any) -> pb.WatchTasksResponse:
    return pb.WatchTasksResponse(task=entry(task_id, word, **detail))


A_FAILED = of("a", "FAILED", exit_code=3, has_exit_code=True)
A_KILLED = of("a", "FAILED", exit_code=-9, has_exit_code=True)
B_DONE, B_STOPPED = of("b", "COMPLETED"), of("b", "STOPPED")


@pytest.mark.parametrize(
    ("events", "options", "code"),
    [
        ([of("a", "COMPLETED"), B_DONE], [], 0),
        ([A_FAILED, B_DONE], [], 3),
        ([A_KILLED, B_STOPPED], [], 137),
        ([of("a", "COMPLETED"), B_STOPPED], [], 130),
        ([of("a", "RUNNING"), B_DONE], ["--any"], 0),
        ([of("b", "RUNNING"), A_FAILED], ["--any"], 3),
    ],
)
def test_waiting_ends_with_the_worst_exit_code(
    server: Scripted, alice: Shell, events: list[pb.WatchTasksResponse], options: list[str], code: int
) -> None:
    knows(server, "a", "b")
    ends(server, *events)
    done = alice("wait", "a", "b", *options, "--json")
    assert done.code == code
    told = [event.task.task_id for event in events if event.task.detail.state != "RUNNING"]
    assert [line["task"]["task_id"] for line in done.lines] == told
    assert len(server.asked["WatchTasks"]) == 1


@pytest.mark.parametrize(
    ("counts", "worst", "code"),
    [({"SUCCEEDED": 2}, 0, 0), ({"SUCCEEDED": 1, "FAILED": 1}, 9, 9), ({"FAILED": 1, "STOPPED": 1}, 0, 1),
     ({"STOPPED": 2}, 0, 130)],
)  # fmt: skip
def test_a_job_is_waited_for_as_a_task_is(
    server: Scripted, alice: Shell, counts: dict[str, int], worst: int, code: int
) -> None:
    knows(server, "job_j")
    running = pb.Job(job_id="job_j", tasks=2, counts={"RUNNING": 2})
    ended = pb.Job(job_id="job_j", tasks=2, counts=counts, worst_exit_code=worst)
    ends(server, pb.WatchTasksResponse(job=running), pb.WatchTasksResponse(job=ended))
    done = alice("wait", "job_")
    assert done.code == code
    assert "2 of 2 tasks ended" in done.err
    assert list(server.asked["WatchTasks"][0].job_ids) == ["job_j"]


def test_a_wait_that_is_bounded_has_a_code_of_its_own(server: Scripted, alice: Shell) -> None:
    knows(server, "a")

    def stands_still(_request: Any, context: grpc.ServicerContext) -> Iterator[pb.WatchTasksResponse]:
        yield of("a", "RUNNING")
        while context.is_active():
            time.sleep(0.01)

    server.on("WatchTasks", stands_still)
    done = alice("wait", "a", "--timeout", "1s", "--json")
    assert (done.code, done.lines[-1]["event"]) == (124, "timeout")
    assert alice("wait", "a", "--timeout", "soon").code == 2
    assert alice("wait", "a", "b").code == 4
    assert alice("wait").code == 2


def test_a_stream_that_is_cut_goes_on_with_what_is_left(server: Scripted, alice: Shell) -> None:
    knows(server, "a", "b")
    answers = [[A_FAILED], [B_DONE]]
    server.on("WatchTasks", lambda *_: iter(answers.pop(0)))
    assert alice("wait", "a", "b").code == 3
    assert [list(request.task_ids) for request in server.asked["WatchTasks"]] == [["a", "b"], ["b"]]


def test_at_an_older_pool_each_is_watched(server: Scripted, alice: Shell) -> None:
    words = {"a": state("FAILED", exit_code=5, has_exit_code=True), "b": state("SUCCEEDED")}
    server.on("WatchTask", lambda request, _: iter([words[request.task_id]]))
    assert alice("wait", "a", "b").code == 5


# -- the operator ----------------------------------------------------------------------------------------
def test_an_operator_lists_looks_and_stops(server: Scripted, alice: Shell) -> None:
    server.answers(
        "ListUserTasks", pb.ListTasksResponse(success=True, tasks=[entry("t1", "QUEUED", owner="bob")])
    )
    server.answers("ShowUserTask", pb.PollTaskStatusResponse(task_id="t1", status="FAILED", detail=ENDED))
    server.answers(
        "ExplainUserTask", pb.ExplainTaskResponse(success=True, message="waiting: no node", state="QUEUED")
    )
    server.answers("GetUserTaskLogs", pb.GetTaskLogsResponse(success=True, logs="said\x1b]0;x\x07\n"))
    server.answers("StopUserTask", pb.AdminResponse(success=True, message="stopped"))
    words = "--user bob --state queued --node n --label k=v --job j"
    assert "bob" in alice("admin", "tasks", *words.split()).out
    asked = server.asked["ListUserTasks"][0]
    assert (asked.username, list(asked.filter.states), asked.filter.node_id) == ("bob", ["QUEUED"], "n")
    assert (asked.filter.job_id, dict(asked.filter.labels)) == ("j", {"k": "v"})
    assert alice("admin", "tasks", "-q").out == "t1\n"
    assert "exit code 3" in alice("admin", "tasks", "show", "t1").out
    assert "no node" in alice("admin", "tasks", "explain", "t1").out
    assert alice("admin", "tasks", "logs", "t1", "--reason", "asked").out == "said ]0;x \n"
    assert alice("admin", "tasks", "stop", "t1", "--reason", "full", "--json").answer["message"] == "stopped"
    assert [server.asked[method][0].reason for method in ("GetUserTaskLogs", "StopUserTask")] == [
        "asked",
        "full",
    ]
    for unsaid in ("logs", "stop"):
        assert alice("admin", "tasks", unsaid, "t1").code == 2
