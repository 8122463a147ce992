"""`hivemind job` and the SDK's jobs, against a server that answers to order."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivemind import BadResultError, JobInfo, NodePoolClient, NotYetError, RefusedError, TaskState
from hivemind.cli.render.jobs import job_details, jobs_table
from hivemind.cli.render.tasks import PlainConsole
from hivemind.job_results import Fetch, fetch_all
from hivemind.jobs import ReasonGroup
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import RESULT, TOKEN, Shell
from tests.support.scripted_server import Scripted, in_chunks

alice, environment, server = command.alice, command.environment, command.server
stranger = command.stranger

JOB = "job_20260101_000000_0badcafe"
_REASONS = [
    pb.JobReason(state="FAILED", code="task.exit", reason="exit code 3", tasks=2, first_index=1),
    pb.JobReason(state="QUEUED", reason="", tasks=1, first_index=7),
]


def job(**counts: int) -> pb.Job:
    return pb.Job(
        job_id=JOB,
        kind="array",
        name="a sweep",
        labels={"exp": "1"},
        tasks=sum(counts.values()),
        counts=counts,
        created_at=time.time() - 10,
        paid_cpt=1234,
        held_cpt=5,
    )


def tells(server: Scripted, *answers: pb.Job) -> None:
    """One answer after the other, the last again and again."""
    left = list(answers)

    def find(_request: Any, _context: grpc.ServicerContext) -> pb.GetJobResponse:
        return pb.GetJobResponse(
            success=True, job=left.pop(0) if len(left) > 1 else left[0], reasons=_REASONS
        )

    server.on("GetJob", find)


def lists(server: Scripted, *task_ids: str) -> None:
    def page(request: pb.ListJobTasksRequest, _context: grpc.ServicerContext) -> pb.ListJobTasksResponse:
        """Two at a time."""
        at = request.from_index
        following = at + 2 if at + 2 < len(task_ids) else 0
        found = [pb.TaskStatus(task_id=each, status="COMPLETED") for each in task_ids[at : at + 2]]
        return pb.ListJobTasksResponse(success=True, tasks=found, next_index=following)

    server.on("ListJobTasks", page)


def test_a_job_is_for_people_or_for_machines(server: Scripted, alice: Shell) -> None:
    tells(server, job(SUCCEEDED=1000, FAILED=2, QUEUED=998))
    told = alice("job", "status", JOB, "--json").answer
    assert (told["tasks"], told["ended"]) == (2000, 1002)
    assert told["counts"] == {"SUCCEEDED": 1000, "FAILED": 2, "QUEUED": 998}
    assert told["reasons"][0] == {
        "state": "FAILED", "reason": "exit code 3", "tasks": 2, "first_index": 1, "code": "task.exit",
    }  # fmt: skip
    shown = alice("job", "status", JOB).out
    for words in (
        "a sweep",
        "exp=1",
        "998 queued",
        "1,000 succeeded",
        "1,234 CPT",
        "exit code 3",
        f"{JOB}.7",
    ):
        assert words in shown
    assert "at the pace since it was sent" in shown
    assert "not known yet" in shown


def test_all_pages_of_jobs_and_tasks_are_asked_for(server: Scripted, alice: Shell) -> None:
    def page(request: pb.ListJobsRequest, _context: grpc.ServicerContext) -> pb.ListJobsResponse:
        last = request.page_token == "next"
        return pb.ListJobsResponse(
            success=True, jobs=[job(SUCCEEDED=2, RUNNING=2)], next_page_token="" if last else "next"
        )

    server.on("ListJobs", page)
    assert len(alice("job", "ls", "--json").answer) == 2
    assert len(alice("job", "ls", "--json", "--limit", "1").answer) == 1
    assert "50 %" in alice("job", "ls").out
    lists(server, *(f"{JOB}.{index}" for index in range(5)))
    assert len(alice("job", "tasks", JOB, "--json", "--state", "failed").answer) == 5
    assert list(server.asked["ListJobTasks"][0].states) == ["FAILED"]


@pytest.mark.parametrize(
    ("end", "code"),
    [({"SUCCEEDED": 3}, 0), ({"SUCCEEDED": 2, "FAILED": 1}, 1), ({"SUCCEEDED": 1, "STOPPED": 2}, 130)],
)
def test_a_job_is_watched_to_its_end(server: Scripted, alice: Shell, end: dict[str, int], code: int) -> None:
    tells(server, job(RUNNING=3), job(RUNNING=3), job(**end))
    done = alice("job", "watch", JOB, "--json")
    assert done.code == code
    assert [line["counts"] for line in done.lines] == [{"RUNNING": 3}, end]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_a_bar_and_how_it_ended(
    server: Scripted, alice: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells(server, job(RUNNING=3), job(RUNNING=1, SUCCEEDED=2), job(SUCCEEDED=2, FAILED=1))
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert alice("job", "watch", JOB).code == 1
    shown = screen.getvalue()
    assert "━" in shown
    assert "3/3" in shown
    assert shown.endswith("3 of 3 tasks ended: 2 succeeded, 1 failed\n")


@pytest.mark.parametrize(("width", "such_as"), [(60, ".7"), (80, f"{JOB}.7")])
def test_ids_are_whole_on_a_narrow_screen(width: int, such_as: str) -> None:
    words = "failed in each of 3 tries; the last: the task ended with exit code 3"
    reason = ReasonGroup(state=TaskState.FAILED, reason=words, tasks=50, first_index=7)
    told = JobInfo(
        job_id=JOB, kind="array", tasks=100_000, name="n" * 40, created_at=1.0, reasons=(reason,),
        counts={TaskState.SUCCEEDED: 99_950, TaskState.FAILED: 50},
    )  # fmt: skip
    shown = []
    for each in (jobs_table([told, told], 500_000.0), job_details(told, 500_000.0)):
        screen = io.StringIO()
        PlainConsole(file=screen, width=width).print(each)
        lines = screen.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert any(JOB in line for line in lines)
        shown += lines
    assert any(line.split()[-1:] == [such_as] for line in shown)


def test_a_watch_that_is_bounded_gives_up(server: Scripted, alice: Shell) -> None:
    tells(server, job(RUNNING=3))
    done = alice("job", "watch", JOB, "--timeout", "0")
    assert done.code == 7
    assert "0 of 3 tasks ended: 3 running" in done.err
    with NodePoolClient(server.address, token=TOKEN) as pool, pytest.raises(NotYetError):
        list(pool.watch_job(JOB, timeout_seconds=0))


def test_results_come_each_into_its_directory_and_are_not_fetched_twice(
    server: Scripted, alice: Shell, tmp_path: Path
) -> None:
    lists(server, *(f"{JOB}.{index}" for index in range(5)))

    def download(request: pb.DownloadResultRequest, context: grpc.ServicerContext) -> Any:
        if request.task_id.endswith(".3"):
            context.abort(grpc.StatusCode.NOT_FOUND, "it left no files")
        return in_chunks(RESULT)

    server.on("DownloadResult", download)
    detail = pb.TaskDetail(state="STOPPED", reason="it never began")
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(status="STOPPED", detail=detail))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1").mkdir()
    done = alice("job", "result", JOB, "--output", str(tmp_path / "out" / "{index}"), "--json")
    assert done.code == 0, done.err
    assert [(line["index"], line["outcome"]) for line in done.lines] == [
        (0, "fetched"), (1, "there"), (2, "fetched"), (3, "nothing"), (4, "fetched"),
    ]  # fmt: skip
    assert (tmp_path / "out" / "2" / "answer.txt").read_text() == "42"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0", "1", "2", "4"]
    # All that ended: the states are asked for, and not guessed from the answer.
    assert set(server.asked["ListJobTasks"][0].states) == {"SUCCEEDED", "FAILED", "STOPPED"}
    again = alice("job", "result", JOB, "--output", str(tmp_path / "out" / "{index}"))
    assert "0 results fetched, 4 there already, 1 without files, 0 failed" in again.err


def test_only_wanted_files_are_kept(server: Scripted, alice: Shell, tmp_path: Path) -> None:
    lists(server, f"{JOB}.0")
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    assert alice("job", "result", JOB, "--output", str(tmp_path / "{index}"), "--only", "*.csv").code == 0
    assert list((tmp_path / "0").iterdir()) == []


def test_a_result_that_cannot_be_had_is_told_and_the_others_come(
    server: Scripted, alice: Shell, tmp_path: Path
) -> None:
    lists(server, f"{JOB}.0", f"{JOB}.1")

    def download(request: pb.DownloadResultRequest, _context: grpc.ServicerContext) -> Any:
        return in_chunks(b"no ZIP" if request.task_id.endswith(".0") else RESULT)

    server.on("DownloadResult", download)
    done = alice("job", "result", JOB, "--output", str(tmp_path / "{index}"))
    assert done.code == 1
    assert f"{JOB}.0: " in done.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["1"]


@pytest.mark.parametrize("template", ["out", "{nothing}", "{index", "{index.real.x}", "{0}"])
def test_a_template_that_is_none_is_refused(server: Scripted, alice: Shell, template: str) -> None:
    done = alice("job", "result", JOB, "--output", template)
    assert done.code == 6
    assert "--output" in done.err
    assert "ListJobTasks" not in server.asked


@pytest.mark.parametrize("name", ["../../etc", f"{JOB}.../x", f"{JOB}.-1", "another.1", f"{JOB}."])
def test_a_pool_that_names_directories_is_not_obeyed(server: Scripted, tmp_path: Path, name: str) -> None:
    lists(server, name)
    with NodePoolClient(server.address, token=TOKEN) as pool, pytest.raises(BadResultError):
        list(fetch_all(pool, JOB, str(tmp_path / "{task}")))
    assert list(tmp_path.iterdir()) == []
    with NodePoolClient(server.address, token=TOKEN) as pool, pytest.raises(RefusedError):
        list(fetch_all(pool, "../x", str(tmp_path / "{task}")))


def test_a_job_is_stopped(server: Scripted, alice: Shell) -> None:
    server.answers("StopJob", pb.StopJobResponse(success=True, stopped=17))
    assert alice("job", "stop", JOB, "--json").answer == {"job_id": JOB, "stopped": 17}


def test_an_older_pool_says_that_it_knows_no_jobs(server: Scripted, alice: Shell) -> None:
    def unknown(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "")

    server.on("GetJob", unknown)
    assert "too old for jobs" in alice("job", "status", JOB).err


def test_states_of_the_sdk_are_the_pools(server: Scripted) -> None:
    tells(server, job(SUCCEEDED=1, FAILED=1))
    with NodePoolClient(server.address, token=TOKEN) as pool:
        found = pool.job(JOB)
    assert (found.succeeded, found.ended, found.final) == (1, 2, True)
    assert found.counts[TaskState.FAILED] == 1
    assert found.seconds_left(time.time()) is None
    assert Fetch("there") is Fetch.THERE
