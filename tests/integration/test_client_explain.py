"""Explanations, dry runs and the records of attempts, against a server that answers to order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from hivemind import NodePoolClient, TaskNeeds, TaskState, UnsupportedError
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import TOKEN, Shell
from tests.support.scripted_server import Scripted

alice, environment, server = command.alice, command.environment, command.server
stranger, task = command.stranger, command.task

WAITING = pb.ExplainTaskResponse(
    success=True,
    message="waiting: looked at 12 nodes: 9 too small: memory, 3 busy: cpu_score",
    state="QUEUED",
    nodes_looked_at=12,
    failed=[
        pb.FailedClause(clause="too small: memory", nodes=9),
        pb.FailedClause(clause="busy: cpu_score", nodes=3),
    ],
    suggestions=[
        pb.Suggestion(field="memory_gb", value="8", sentence="Ask for 8 GiB of memory.", nodes=3),
        pb.Suggestion(field="location", value="any", sentence="Run anywhere.", nodes=1),
        pb.Suggestion(field="", value="", sentence="Resume bob/pc.", nodes=1),
    ],
    position=3,
    waiting_tasks=17,
    estimated_wait_seconds=240.0,
    estimate_basis="the last 20 tasks of this tier",
    price_per_minute_cpt=5,
    max_price_cpt=300,
    max_minutes=60,
)
RUNS_NOW = pb.ExplainTaskResponse(
    success=True, message="would run now", places_now=True, best_node="bob/pc", nodes_looked_at=2,
    failed=[pb.FailedClause(clause="offline", nodes=1)], price_per_minute_cpt=2,
    max_price_cpt=120, max_minutes=60,
)  # fmt: skip


def changed(answer: pb.ExplainTaskResponse, **fields: Any) -> pb.ExplainTaskResponse:
    copy = pb.ExplainTaskResponse()
    copy.CopyFrom(answer)
    for name, value in fields.items():
        copy.ClearField(name)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(copy, name).extend(value)
        else:
            setattr(copy, name, value)
    return copy


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# -- explain ----------------------------------------------------------------------------------------


def test_an_explanation_says_what_is_in_the_way_what_would_help_and_the_price(
    server: Scripted, alice: Shell
) -> None:
    server.answers("ExplainTask", WAITING)
    done = alice("explain", "t1")
    assert (done.code, done.err) == (0, "")
    lines = lines_of(done.out)
    assert lines[0] == f"t1 is queued: {WAITING.message}"
    for line in (
        "9 too small: memory",
        "3 busy: cpu_score",
        "12 looked at in all",
        "--memory-gb 8 would place it now on 3 nodes",
        "without --location would place it now on 1 node",
        "What you can change, as options of `hivemind submit`:",
        "What others can do:",
        "· Resume bob/pc. (would place it now on 1 node)",
        "place in the wait queue 3 of 17 waiting",
        "expected wait about 4 min (the last 20 tasks of this tier)",
        "price 5 CPT for each started minute, at most 300 CPT for 60 minutes",
    ):
        assert line in lines
    assert server.asked["ExplainTask"][0].task_id == "t1"


def test_an_explanation_in_json_has_every_field(server: Scripted, alice: Shell) -> None:
    server.answers("ExplainTask", WAITING)
    answer = alice("explain", "t1", "--json").answer
    told = set(pb.ExplainTaskResponse.DESCRIPTOR.fields_by_name) - {"success"}
    assert set(answer) == told | {"task_id", "complete"}
    assert (answer["task_id"], answer["state"], answer["complete"]) == ("t1", "QUEUED", True)
    assert answer["failed"][0] == {"clause": "too small: memory", "nodes": 9}
    assert answer["suggestions"][0] == {
        "field": "memory_gb", "value": "8", "sentence": "Ask for 8 GiB of memory.", "nodes": 3,
    }  # fmt: skip
    assert (answer["position"], answer["estimated_wait_seconds"]) == (3, 240.0)


def test_a_wait_of_which_nothing_is_known_is_not_invented(server: Scripted, alice: Shell) -> None:
    server.answers(
        "ExplainTask",
        changed(WAITING, estimated_wait_seconds=-1.0, estimate_basis="no task of this tier has run yet"),
        changed(WAITING, estimated_wait_seconds=float("nan")),
    )
    assert alice("explain", "t1", "--json").answer["estimated_wait_seconds"] is None
    assert "about" not in alice("explain", "t1").out.split("expected wait")[1].splitlines()[0]


def test_a_task_that_has_ended_has_no_place_in_line_and_no_wait(server: Scripted, alice: Shell) -> None:
    ended = pb.ExplainTaskResponse(
        success=True, message="exit code 3", state="FAILED", estimate_basis="it has ended"
    )
    server.answers("ExplainTask", ended)
    assert alice("explain", "t1").out == "t1 has failed: exit code 3\n"


def test_an_older_pool_is_asked_for_the_status_instead(server: Scripted, alice: Shell) -> None:
    detail = pb.TaskDetail(state="QUEUED", reason="waiting: looked at 3 nodes")
    server.answers("ExplainTask", grpc.StatusCode.UNIMPLEMENTED)
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t1", status="PENDING", detail=detail))
    done = alice("explain", "t1")
    assert (done.code, done.out) == (0, "t1 is queued: waiting: looked at 3 nodes\n")
    assert "older" in done.err
    assert alice("explain", "t1", "--json").answer["complete"] is False


def test_the_pools_words_in_an_explanation_cannot_steer_the_terminal(server: Scripted, alice: Shell) -> None:
    nasty = "\x1b]0;title\x07[bold]\n"
    server.answers(
        "ExplainTask",
        changed(
            WAITING,
            message=nasty,
            failed=[pb.FailedClause(clause=nasty, nodes=1)],
            suggestions=[
                pb.Suggestion(field="gpu_name", value=nasty, nodes=1),
                pb.Suggestion(field="rm -rf", value=nasty, sentence=nasty, nodes=1),
            ],
            estimate_basis=nasty,
            best_node=nasty,
        ),
    )
    shown = alice("explain", "t1").out + alice("submit", str(_empty_task()), "--dry-run").out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]" in shown
    assert "--rm -rf" not in shown


def _empty_task() -> Path:
    path = Path("main.py")
    path.write_text("")
    return path


def test_a_thousand_clauses_are_not_a_thousand_lines(server: Scripted, alice: Shell) -> None:
    many = [pb.FailedClause(clause=f"clause {number}", nodes=1) for number in range(1000)]
    server.answers("ExplainTask", changed(WAITING, failed=many, nodes_looked_at=1000))
    done = alice("explain", "t1")
    assert len(done.out.splitlines()) < 60
    assert "980 for other reasons" in lines_of(done.out)
    assert len(alice("explain", "t1", "--json").answer["failed"]) == 1000


def test_somebody_elses_task_is_not_explained(server: Scripted, alice: Shell) -> None:
    server.answers("ExplainTask", grpc.StatusCode.NOT_FOUND)
    assert alice("explain", "t1", "--json").error["code"] == "not_found"


# -- submit --dry-run -------------------------------------------------------------------------------


def test_a_dry_run_asks_for_the_needs_and_sends_no_package(
    server: Scripted, alice: Shell, task: Path
) -> None:
    server.answers("ExplainTask", RUNS_NOW)
    (task / "data.txt").write_text("x" * 5000)
    wishes = (
        "--memory-gb 2 --location asia --location-mode prefer --min-trust high --priority 9 --max-minutes 60"
    )
    done = alice("submit", task, "--dry-run", *wishes.split())
    assert done.code == 0
    lines = lines_of(done.out)
    assert lines[0].startswith(f"{task}: 2 files, ")
    assert lines[0].endswith("packed, runs main.py")
    assert "would run now on bob/pc" in lines
    assert "1 nothing: could take it now" in lines
    assert "price 2 CPT for each started minute, at most 120 CPT for 60 minutes" in lines
    assert "nothing was sent" in done.err
    assert set(server.asked) == {"ExplainTask"}
    asked = server.asked["ExplainTask"][0].task
    assert (asked.memory_gb, asked.location, asked.location_mode) == (2, "asia", "prefer")
    assert (asked.min_trust, asked.priority, asked.max_minutes, asked.task_zip) == ("high", 9, 60, b"")


def test_a_dry_run_in_json_has_the_package_and_the_explanation(
    server: Scripted, alice: Shell, task: Path
) -> None:
    server.answers("ExplainTask", RUNS_NOW)
    done = alice("submit", task, "--dry-run", "--json")
    assert (done.code, done.err) == (0, "")
    package = done.answer["package"]
    assert (package["files"], package["entry_script"], package["unpacked_bytes"]) == (1, "main.py", 14)
    assert package["package_bytes"] > 0
    assert (done.answer["dry_run"], done.answer["accepted"]) == (True, True)
    assert done.answer["explanation"]["best_node"] == "bob/pc"
    assert done.answer["explanation"]["max_price_cpt"] == 120


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "would be accepted and wait"),
        (
            {"can_never_run": True},
            "would be accepted, but no node could run it: it would wait until one joins",
        ),
    ],
)
def test_a_task_that_would_wait_would_be_accepted_and_that_is_said(
    server: Scripted, alice: Shell, task: Path, fields: dict[str, Any], verdict: str
) -> None:
    server.answers("ExplainTask", changed(WAITING, state="", position=0, **fields))
    done = alice("submit", task, "--dry-run")
    assert done.code == 0
    assert verdict in lines_of(done.out)
    assert "--memory-gb 8 would place it now on 3 nodes" in lines_of(done.out)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 6),
        (pb.ExplainTaskResponse(success=False, message="the image is not allowed"), 6),
        (grpc.StatusCode.UNAUTHENTICATED, 3),
        (grpc.StatusCode.UNIMPLEMENTED, 1),
    ],
)
def test_a_dry_run_of_what_would_not_be_accepted_has_the_exit_code_of_submit(
    server: Scripted, alice: Shell, task: Path, answer: Any, code: int
) -> None:
    server.answers("ExplainTask", answer)
    assert alice("submit", task, "--dry-run", "--json").error["exit_code"] == code


def test_a_dry_run_of_what_cannot_be_packed_asks_nobody(
    server: Scripted, alice: Shell, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing to run")
    assert alice("submit", tmp_path / "notes", "--dry-run").code == 6
    assert alice("submit", tmp_path / "nowhere", "--dry-run").code == 4
    assert alice("submit", tmp_path / "notes", "--dry-run", "--memory-gb", "-1").code == 6
    assert server.asked == {}


def test_without_a_login_nothing_is_quoted(server: Scripted, stranger: Shell, task: Path) -> None:
    assert stranger("submit", task, "--dry-run").code == 3
    assert server.asked == {}


# -- the SDK ----------------------------------------------------------------------------------------


def test_programs_ask_for_a_quote_and_an_explanation(server: Scripted) -> None:
    server.answers("ExplainTask", RUNS_NOW, WAITING, grpc.StatusCode.UNIMPLEMENTED)
    with NodePoolClient(server.address, token=TOKEN) as pool:
        quote = pool.quote(TaskNeeds(memory_gb=1))
        assert (quote.places_now, quote.best_node, quote.state) == (True, "bob/pc", None)
        told = pool.explain("t1")
        assert (told.state, told.suggestions[0].value, told.failed[0].nodes) == (TaskState.QUEUED, "8", 9)
        with pytest.raises(UnsupportedError, match="too old"):
            pool.quote()


# -- records ----------------------------------------------------------------------------------------


def test_status_shows_how_each_attempt_went(server: Scripted, alice: Shell) -> None:
    lost = pb.AttemptRecord(
        number=1, node_id="bob/pc", state="lost", reason="the node did not report for 15 s",
        queue_seconds=1.5, placed_at=100.0, started_at=102.0, finished_at=130.0, bytes_in=2048,
    )  # fmt: skip
    ended = pb.AttemptRecord(
        number=2, node_id="eve/\x1b[2Jbox", state="finished", queue_seconds=61.0, placed_at=200.0,
        started_at=200.5, finished_at=230.5, exit_code=3, has_exit_code=True, cpu_seconds=29.25,
        peak_memory_bytes=64 << 20, bytes_in=2048, bytes_out=3 << 20,
    )  # fmt: skip
    detail = pb.TaskDetail(
        state="FAILED", priority=0, min_trust="normal", location_mode="prefer", max_minutes=30,
        attempts=[lost, ended],
    )  # fmt: skip
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t1", status="FAILED", detail=detail))
    done = alice("status", "t1")
    lines = lines_of(done.out)
    for line in ("priority 0", "min trust normal", "location mode prefer", "longest run 30 minutes"):
        assert line in lines
    assert "1 bob/pc lost 1.5 s 2.0 s 28 s 2.0 KiB the node did not report for 15 s" in lines
    assert "2 eve/ [2Jbox finished 1 min 1 s 0.5 s 30 s 29 s 64.0 MiB 2.0 KiB 3.0 MiB 3" in lines
    assert "\x1b" not in done.out

    answer = alice("status", "t1", "--json").answer
    assert (answer["priority"], answer["min_trust"]) == (0, "normal")
    assert (answer["location_mode"], answer["max_minutes"]) == ("prefer", 30)
    second = answer["attempts"][1]
    assert (second["number"], second["exit_code"], second["peak_memory_bytes"]) == (2, 3, 64 << 20)
    assert answer["attempts"][0]["exit_code"] is None
    told = set(pb.AttemptRecord.DESCRIPTOR.fields_by_name) - {"node_id", "has_exit_code", "run_seconds"}
    assert set(second) == told | {"node", "paid_seconds"}


def test_a_pool_that_keeps_no_records_shows_none(server: Scripted, alice: Shell) -> None:
    detail = pb.TaskDetail(state="QUEUED")
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t1", status="PENDING", detail=detail))
    done = alice("status", "t1")
    assert "QUEUED  " not in done.out
    assert "priority" not in done.out
