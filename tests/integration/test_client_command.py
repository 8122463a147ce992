"""The `hivemind` command as scripts and people meet it, against a server that answers to order."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivemind.remembered import REMEMBERED_SECONDS, recall
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import COMMAND, RESULT, TOKEN, WITH_A_TERMINAL, Shell, run, runs
from tests.support.environment import free_port
from tests.support.scripted_server import Scripted, in_chunks, output, state, token_of
from tests.support.waiting import wait_until

alice, environment, server = command.alice, command.environment, command.server
stranger, task = command.stranger, command.task

# -- accounts ---------------------------------------------------------------------------------------


def test_a_login_is_kept_for_its_user_only_and_forgotten_by_logout(
    server: Scripted, stranger: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_PASSWORD", "correct horse")
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    kept = stranger("login", "alice", "--json")
    assert kept.code == 0
    assert kept.answer == {"username": "alice", "expires_at": 4e9, "gateway": server.address}
    assert server.asked["Login"][0].password == "correct horse"
    assert stranger.profile.stat().st_mode & 0o777 == 0o600
    assert "correct horse" not in stranger.profile.read_text()

    monkeypatch.delenv("HIVEMIND_GATEWAY")
    monkeypatch.delenv("HIVEMIND_PASSWORD")
    assert stranger("whoami", "--json").answer["username"] == "alice"
    assert stranger("whoami").out.startswith(f"alice at {server.address}, until ")
    assert stranger("logout", "--json").answer == {"gateway": server.address, "logged_out": True}
    assert TOKEN not in stranger.profile.read_text()
    assert stranger("whoami").code == 3
    assert stranger("logout", "--json").answer["logged_out"] is False


def test_a_new_account_is_logged_in(
    server: Scripted, stranger: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_PASSWORD", "correct horse")
    server.answers("Register", pb.RegisterResponse(success=True))
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    assert stranger("register", "alice").code == 0
    assert stranger("whoami").code == 0


def test_a_password_comes_from_stdin(environment: dict[str, str], server: Scripted) -> None:
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    done = run(environment, "login", "alice", "--password-stdin", input="correct horse\nmore\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "logged in" in done.stderr
    assert server.asked["Login"][0].password == "correct horse"


def test_a_password_is_asked_for_without_showing_it(environment: dict[str, str], server: Scripted) -> None:
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    control, terminal = pty.openpty()

    process = subprocess.Popen(
        [sys.executable, "-c", WITH_A_TERMINAL, "login", "alice"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    os.close(terminal)
    screen = b""
    try:
        while b"Password" not in screen:
            screen += os.read(control, 1000)
        # Not before the echo is off, and the prompt alone does not say so.
        wait_until(
            lambda: not termios.tcgetattr(control)[3] & termios.ECHO,
            "the echo is off",
        )
        os.write(control, b"correct horse\n")
        assert process.wait(60) == 0
        screen += os.read(control, 1000)
    finally:
        process.kill()
        process.wait()
        os.close(control)
    assert server.asked["Login"][0].password == "correct horse"
    assert b"horse" not in screen


def test_without_a_terminal_nobody_is_asked(environment: dict[str, str]) -> None:
    done = run(environment, "--json", "login", "alice", stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "--password-stdin" in json.loads(done.stderr)["error"]["hint"]


def test_an_expired_login_says_so(stranger: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_TOKEN", token_of("alice", exp=1_000_000_000))
    ended = stranger("whoami", "--json")
    assert ended.code == 3
    assert "has expired" in ended.error["message"]
    assert "hivemind login" in ended.error["hint"]


def test_a_token_is_not_sent_to_another_gateway(
    server: Scripted, stranger: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVEMIND_PASSWORD", "correct horse")
    server.answers("Login", pb.LoginResponse(success=True, token=TOKEN))
    stranger("login", "alice")
    other = Scripted()
    other.start()
    try:
        other.answers("GetNodeList", pb.GetNodeListResponse(success=True))
        assert stranger("--gateway", other.address, "nodes").code == 0
        assert "authorization" not in other.metadata["GetNodeList"][0]
    finally:
        other.stop()


def test_no_token_leaves_in_plain_text(alice: Shell) -> None:
    ended = alice("--gateway", "192.0.2.1:50051", "--json", "ls")
    assert ended.code == 6
    assert ended.error["code"] == "plain_text"
    assert "--tls" in ended.error["hint"]


# -- errors and exit codes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 3, "not_logged_in"),
        (grpc.StatusCode.PERMISSION_DENIED, 3, "not_allowed"),
        (grpc.StatusCode.NOT_FOUND, 4, "not_found"),
        (grpc.StatusCode.INVALID_ARGUMENT, 6, "refused"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 6, "limit"),
        (grpc.StatusCode.INTERNAL, 1, "failure"),
    ],
)
def test_errors_have_an_exit_code_and_one_line(
    server: Scripted, alice: Shell, status: grpc.StatusCode, code: int, name: str
) -> None:
    server.answers("PollTaskStatus", status)
    machine = alice("status", "t", "--json")
    assert machine.code == code
    assert machine.error["code"] == name
    human = alice("status", "t")
    assert (human.code, human.out) == (code, "")
    assert human.err.startswith("error: ")
    assert human.err.count("\n") == 1


def test_a_pool_that_is_not_there_is_exit_code_5(alice: Shell) -> None:
    ended = alice("--gateway", f"127.0.0.1:{free_port()}", "ls", "--json")
    assert ended.code == 5
    assert ended.error["code"] == "unreachable"


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("submit",),
        ("ls", "--limit", "-1"),
        ("--gateway", "no-port", "ls"),
        ("transfer", "bob", "0"),
        ("submit", ".", "--priority", "10"),
        ("submit", ".", "--min-trust", "highest"),
        ("submit", ".", "--location-mode", "near"),
        ("submit", ".", "--dry-run", "--follow"),
        ("top", "--interval", "0"),
        ("top", "--sort", "age"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(alice: Shell, arguments: tuple[str, ...]) -> None:
    assert alice(*arguments).code == 2
    assert alice("--json", *arguments).error["exit_code"] == 2


def test_a_pools_words_cannot_steer_the_terminal(server: Scripted, alice: Shell) -> None:
    def hostile(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.NOT_FOUND, "no\nsuch \x1b]0;title\x07 task")

    server.on("PollTaskStatus", hostile)
    assert "\x1b" not in alice("status", "t").err


def test_help_loads_neither_grpc_nor_rich() -> None:
    probe = (
        "import sys, hivemind, hivemind.cli\n"
        "assert hivemind.cli.main(['--help']) == 0\n"
        "heavy = {'grpc', 'rich', 'google.protobuf', 'pydantic', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes:" in done.stdout


def test_a_reader_that_leaves_early_is_no_error(environment: dict[str, str], server: Scripted) -> None:
    server.answers("GetTaskLogs", pb.GetTaskLogsResponse(success=True, logs="x" * 1_000_000))
    with subprocess.Popen(
        [*COMMAND, "logs", "t"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "HIVEMIND_TOKEN": TOKEN},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["nodes"], ["logs", "t"]])
def test_an_answer_that_cannot_be_written_is_one_line(
    environment: dict[str, str], server: Scripted, arguments: list[str], unbuffered: str
) -> None:
    server.answers("GetTaskLogs", pb.GetTaskLogsResponse(success=True, logs="x" * 100_000))
    server.answers(
        "GetNodeList", pb.GetNodeListResponse(success=True, nodes=[pb.WorkerNodeInfo(node_id="bob/pc")])
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment
            | {
                "PYTHONPATH": os.pathsep.join(sys.path),
                "HIVEMIND_TOKEN": TOKEN,
                "PYTHONUNBUFFERED": unbuffered,
            },
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "what was to be written: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_who_closed_stdout_is_told_nothing_on_it(environment: dict[str, str], server: Scripted) -> None:
    server.answers(
        "GetNodeList", pb.GetNodeListResponse(success=True, nodes=[pb.WorkerNodeInfo(node_id="bob/pc")])
    )
    known = environment | {"PYTHONPATH": os.pathsep.join(sys.path), "HIVEMIND_TOKEN": TOKEN}
    words = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "nodes"]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, env=known, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_large_log_arrives_whole(environment: dict[str, str], server: Scripted, unbuffered: str) -> None:
    server.answers("GetTaskLogs", pb.GetTaskLogsResponse(success=True, logs="x" * 1_000_000))
    done = run(environment | {"HIVEMIND_TOKEN": TOKEN, "PYTHONUNBUFFERED": unbuffered}, "logs", "t")
    assert (done.returncode, len(done.stdout)) == (0, 1_000_000)


# -- commands of others -----------------------------------------------------------------------------


def test_commands_of_the_operator_are_found_and_a_broken_one_breaks_only_itself(
    environment: dict[str, str], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    info = site / "operators_tools-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: operators-tools\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[hivemind.commands]\n"
        "hello = operators_tools:hello\n"
        "broken = not_installed.anywhere:command\n"
        "wrong = operators_tools:number\n"
        "ls = operators_tools:hello\n"
    )
    (site / "operators_tools.py").write_text(
        "import click\nnumber = 7\n@click.command()\ndef hello():\n    click.echo('hello')\n"
    )

    def tell(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(environment, *arguments, path=(str(site),))

    assert tell("hello").stdout == "hello\n"
    listed = tell("--help")
    assert listed.returncode == 0
    assert {"hello", "broken", "wrong"} <= set(listed.stdout.split())
    for name in ("broken", "wrong"):
        done = tell(name, "--some-option", "x")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: the command '{name}' cannot be loaded")
    # A name of ours stays ours.
    assert tell("ls").returncode == 3


# -- tasks ------------------------------------------------------------------------------------------


def test_submit_answers_the_task_id_alone(server: Scripted, alice: Shell, task: Path) -> None:
    runs(server)
    (task / "link").symlink_to("/etc/passwd")
    done = alice("submit", task)
    assert done.code == 0
    assert done.out == server.asked["UploadTask"][0].task_id + "\n"
    assert "left out link" in done.err


def test_submit_carries_its_options(server: Scripted, alice: Shell, task: Path) -> None:
    runs(server)
    options = "--memory-gb 2 --cpu-score 300 --gpu-score 4 --gpu-memory-gb 5 --location Asia --gpu-name X"
    more = "--image python:3.12 --network --max-minutes 7 --task-id mine"
    placing = "--priority 0 --min-trust normal --location-mode prefer"
    done = alice("submit", task, *options.split(), *more.split(), *placing.split(), "--json")
    assert done.answer["task_id"] == "mine"
    told = {"task_id", "package_bytes", "repeated", "message", "warnings"}
    assert set(done.answer) == told | {"stored_bytes", "stored_bytes_limit", "max_minutes"}
    request = server.asked["UploadTask"][0]
    assert (request.memory_gb, request.cpu_score, request.gpu_score, request.gpu_memory_gb) == (2, 300, 4, 5)
    assert (request.location, request.gpu_name, request.image) == ("Asia", "X", "python:3.12")
    assert (request.network, request.max_minutes) == (True, 7)
    assert (request.HasField("priority"), request.priority) == (True, 0)
    assert (request.min_trust, request.location_mode) == ("normal", "prefer")


def test_what_is_not_asked_for_is_left_to_the_pool(server: Scripted, alice: Shell, task: Path) -> None:
    runs(server)
    assert alice("submit", task).code == 0
    request = server.asked["UploadTask"][0]
    assert not request.HasField("priority")
    # What older pools take an empty word for.
    assert (request.min_trust, request.location_mode) == ("", "strict")


def test_following_gives_the_tasks_output_exit_code_and_files(
    server: Scripted, alice: Shell, task: Path, tmp_path: Path
) -> None:
    runs(
        server,
        state("QUEUED", reason="waiting: no node has joined the pool yet"),
        state("RUNNING", assigned_node="bob/pc", attempt_number=1),
        output(1, 0, b"first \xff\n"),
        output(1, 8, b"second"),
        state("FAILED", exit_code=3, has_exit_code=True, has_result=True, reason="exit code 3"),
    )
    done = alice("submit", task, "--follow", "--output", tmp_path / "out")
    assert done.code == 3
    assert done.out == "first \udcff\nsecond" or done.out == "first \ufffd\nsecond"
    assert "no node has joined" in done.err
    assert "running on bob/pc" in done.err
    assert "failed with exit code 3" in done.err
    assert (tmp_path / "out" / "answer.txt").read_text() == "42"


def test_following_in_json_is_one_event_a_line(
    server: Scripted, alice: Shell, task: Path, tmp_path: Path
) -> None:
    runs(
        server,
        state("RUNNING", attempt_number=1),
        output(1, 0, "亞".encode()[:2]),
        output(1, 2, "亞洲".encode()[2:]),
        output(1, 100, b"tail"),
        state("SUCCEEDED", has_exit_code=True, has_result=True, result_bytes=len(RESULT)),
    )
    done = alice("submit", task, "--follow", "--json", "--output", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert [line["event"] for line in done.lines] == [
        *("submitted", "state", "output", "output", "output", "state", "end")
    ]
    outputs = [line for line in done.lines if line["event"] == "output"]
    assert "".join(line["text"] for line in outputs) == "亞洲tail"
    assert outputs[2]["skipped_bytes"] == 94
    end = done.lines[-1]
    assert (end["exit_code"], end["task"]["status"]) == (0, "COMPLETED")
    assert end["result"]["files"] == ["answer.txt"]


def test_a_place_for_the_result_is_looked_at_before_anything_is_sent(
    server: Scripted, alice: Shell, task: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    assert alice("submit", task, "--follow", "--output", tmp_path / "out").code == 6
    assert server.asked == {}


def test_a_new_attempt_and_lost_output_are_told(server: Scripted, alice: Shell) -> None:
    runs(
        server,
        output(1, 0, b"one\n"),
        output(2, 0, b"two\n"),
        output(2, 2052, b"three\n"),
        state("SUCCEEDED"),
    )
    done = alice("logs", "-f", "t")
    assert (done.code, done.out) == (0, "one\ntwo\nthree\n")
    assert "attempt 2 begins" in done.err
    assert "2.0 KiB of output are only in the result's task_logs.txt" in done.err


def test_on_a_terminal_output_is_shown_and_not_obeyed(
    environment: dict[str, str], server: Scripted, task: Path, tmp_path: Path
) -> None:
    runs(
        server,
        state("QUEUED", reason="waiting: no node has joined the pool yet"),
        state("RUNNING", assigned_node="bob/pc", attempt_number=1),
        output(1, 0, b"\x1b[32mgreen\x1b[0m \x1b]0;title\x07plain"),
        state("SUCCEEDED", has_exit_code=True, has_result=True),
    )
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "submit", str(task), "--follow", "--output", str(tmp_path / "out")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "HIVEMIND_TOKEN": TOKEN, "TERM": "xterm"},
    )
    os.close(terminal)
    screen = b""
    try:
        with contextlib.suppress(OSError):  # how a terminal says that nobody is there any more
            while part := os.read(control, 4096):
                screen += part
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(control)
    assert b"\x1b[32mgreen\x1b[0m plain\r\n" in screen
    assert b"title" not in screen
    for words in ("upload", "· running on bob/pc", "· succeeded", "· 1 file in"):
        assert words.encode() in screen


class Following:
    """`submit --follow` in a process of its own, at a task that runs until it is told to end."""

    def __init__(self, server: Scripted, environment: dict[str, str], task: Path, *options: str) -> None:
        self.server = server
        self.end = threading.Event()
        server.answers("UploadTask", pb.UploadTaskResponse(success=True))
        server.on("DownloadResult", lambda *_: in_chunks(RESULT))
        server.on("WatchTask", self._watch)
        server.on("StopTask", self._stop)
        self.process = subprocess.Popen(
            [*COMMAND, "submit", str(task), "--follow", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path), "HIVEMIND_TOKEN": TOKEN},
            text=True,
        )

    def _watch(self, request: pb.WatchTaskRequest, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(self._left)
        yield state("RUNNING", attempt_number=1)
        if not request.output_offset:
            yield output(1, 0, b"working\n")
        self.end.wait(60)
        yield state("STOPPED", has_result=True)

    def _left(self) -> None:
        """A watcher that goes must not leave its thread waiting."""
        self.end.set()

    def _stop(self, *_: Any) -> pb.StopTaskResponse:
        self.end.set()
        return pb.StopTaskResponse(success=True)

    def interrupt_when_working(self) -> tuple[int, str]:
        try:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "working\n"
            self.process.send_signal(signal.SIGINT)
            out, err = self.process.communicate(timeout=60)
            assert out == ""
            return self.process.returncode, err
        finally:
            self.end.set()
            self.process.kill()
            self.process.communicate()


def test_an_interrupt_leaves_the_task_running_and_says_how_to_stop_it(
    server: Scripted, environment: dict[str, str], task: Path
) -> None:
    code, err = Following(server, environment, task).interrupt_when_working()
    task_id = server.asked["UploadTask"][0].task_id
    assert code == 130
    assert f"`hivemind stop {task_id}`" in err
    assert "Traceback" not in err
    assert "StopTask" not in server.asked


def test_an_interrupt_stops_the_task_when_asked_to(
    server: Scripted, environment: dict[str, str], task: Path, tmp_path: Path
) -> None:
    following = Following(server, environment, task, "--stop-on-interrupt", "--output", str(tmp_path / "out"))
    code, err = following.interrupt_when_working()
    assert code == 130
    assert "stopped" in err
    assert len(server.asked["StopTask"]) == 1
    assert (tmp_path / "out" / "answer.txt").read_text() == "42"


def test_lists_and_details_are_for_people_or_for_machines(server: Scripted, alice: Shell) -> None:
    reason = "waiting: looked at 3 nodes: 3 busy: memory \x1b[2J[bold]"
    detail = pb.TaskDetail(state="QUEUED", reason=reason, created_at=1.0, queue="normal.any")
    entry = pb.TaskStatus(task_id="t1", status="PENDING", detail=detail)
    old = pb.TaskStatus(task_id="t0", status="COMPLETED", created_at="0.5", updated_at="", assigned_node="n")
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True, tasks=[old, entry]))
    server.answers("PollTaskStatus", pb.PollTaskStatusResponse(task_id="t1", status="PENDING", detail=detail))
    listed = alice("ls", "--json").answer
    assert [task["task_id"] for task in listed] == ["t1", "t0"]
    assert listed[0]["state"] == "QUEUED"
    assert [task["task_id"] for task in alice("ls", "--status", "completed", "--json").answer] == ["t0"]
    assert len(alice("ls", "--limit", "1", "--json").answer) == 1
    table = alice("ls").out
    assert "t1" in table
    assert "[bold]" in table
    assert "\x1b[2J" not in table
    assert alice("status", "t1", "--json").answer["queue"] == "normal.any"
    assert "normal.any" in alice("status", "t1").out


def test_a_node_is_drained_and_resumed(server: Scripted, alice: Shell) -> None:
    server.answers("SetNodeDraining", pb.StatusResponse(success=True, message="draining"))
    assert alice("node", "drain", "bob/pc", "--json").answer["draining"] is True
    assert alice("node", "resume", "bob/pc", "--json").answer["draining"] is False
    assert [request.draining for request in server.asked["SetNodeDraining"]] == [True, False]


def test_logs_and_results_are_fetched(server: Scripted, alice: Shell, tmp_path: Path) -> None:
    server.answers("GetTaskLogs", pb.GetTaskLogsResponse(success=True, logs="a\nb"))
    server.on("DownloadResult", lambda *_: in_chunks(RESULT))
    assert alice("logs", "t").out == "a\nb"
    assert alice("logs", "t", "--json").answer == {"task_id": "t", "logs": "a\nb"}
    unpacked = alice("result", "t", "--json")
    assert unpacked.answer["path"] == "t"
    assert unpacked.answer["files"] == ["answer.txt"]
    assert Path("t/answer.txt").read_text() == "42"
    assert alice("result", "t").code == 6
    assert alice("result", "t", "--force").code == 0
    assert alice("result", "t", "--zip", tmp_path / "r.zip").code == 0
    assert (tmp_path / "r.zip").read_bytes() == RESULT
    assert alice("result", "../t").code == 6
    assert alice("result", "t", "--zip", "a", "--output", "b").code == 2


def test_a_task_is_stopped(server: Scripted, alice: Shell) -> None:
    answers = (
        pb.StopTaskResponse(success=True, message="stopping"),
        pb.StopTaskResponse(success=False, message="it has ended already"),
    )
    server.answers("StopTask", *answers)
    assert alice("stop", "t", "--json").answer == {"task_id": "t", "message": "stopping"}
    late = alice("stop", "t", "--json")
    assert (late.code, late.error["code"]) == (6, "conflict")


def test_a_submit_that_waits_says_so_once_and_names_its_id_in_the_end(
    server: Scripted, alice: Shell, task: Path
) -> None:
    server.answers("UploadTask", grpc.StatusCode.UNAVAILABLE)
    ended = alice("submit", str(task))
    (task_id,) = {request.task_id for request in server.asked["UploadTask"]}
    assert (ended.code, ended.out) == (5, "")
    waits, error = ended.err.splitlines()
    assert waits.startswith(f"the pool at {server.address} cannot be reached")
    assert "trying again for" in waits
    assert error.endswith(f"send {task_id} again with `--task-id {task_id}`, which never makes two of it")


def test_who_leaves_a_submit_is_told_its_id(
    server: Scripted, alice: Shell, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers("UploadTask", grpc.StatusCode.UNAVAILABLE)
    monkeypatch.setenv("HIVEMIND_RETRY_SECONDS", "60")

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hivemind.channel.time.sleep", interrupted)
    ended = alice("submit", str(task), "--task-id", "mine")
    assert ended.code == 130
    assert "trying again for 60 s" in ended.err
    assert "send mine again with `--task-id mine`" in ended.err


def test_several_gateways_may_be_given_one_by_one(server: Scripted, alice: Shell) -> None:
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True))
    assert alice("--gateway", "127.0.0.1:1", "--gateway", server.address, "ls").code == 0


# -- what a run is given ------------------------------------------------------------------------------


def test_words_after_two_dashes_are_the_runs(
    server: Scripted, alice: Shell, task: Path, tmp_path: Path
) -> None:
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True, capabilities=["inputs"]))
    server.answers("UploadTask", pb.UploadTaskResponse(success=True, inputs_kept=True))
    file = tmp_path / "variables"
    file.write_text('A="quoted"\nB=of the file\n')
    done = alice(
        "submit", str(task), "-e", "B=1", "--env-file", str(file), "--name", "n", "--label", "k=v=w",
        "--", "-e", "--json", "--", "",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "the quotes around the value of A are part of it" in done.err
    asked = server.asked["UploadTask"][0]
    assert list(asked.arguments) == ["-e", "--json", "--", ""]
    assert dict(asked.environment) == {"A": '"quoted"', "B": "1"}
    assert (asked.name, dict(asked.labels)) == ("n", {"k": "v=w"})


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["extra"], "unexpected 'extra': put -- before what the task itself is to be given"),
        (
            ["-e", "NOT_SET_ANYWHERE"],
            "your environment has no NOT_SET_ANYWHERE; give it as NOT_SET_ANYWHERE=VALUE",
        ),
        (["-e", "LD_PRELOAD=x"], "a task cannot set LD_PRELOAD"),
        (["-e", "=x"], "a task cannot set '' ("),
        (["--label", "k"], "--label k: give it as KEY=VALUE"),
        (["--label", "k=1", "--label", "k=2"], "--label k is given twice"),
        (["--name", "\x1b[2J"], "printable characters"),
        (["--env-file", "/nonexistent"], "/nonexistent cannot be read"),
        (["--", "\udcff"], "argument 1 is not valid UTF-8"),
    ],
)
def test_what_cannot_be_given_is_refused_before_anything_is_sent(
    server: Scripted, alice: Shell, task: Path, words: list[str], problem: str
) -> None:
    done = alice("submit", str(task), *words)
    assert done.code in (2, 6), done.err
    assert problem in done.err
    assert "UploadTask" not in server.asked


def test_an_older_pool_is_given_nothing_that_it_would_drop(
    server: Scripted, alice: Shell, task: Path
) -> None:
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True))
    refused = alice("submit", str(task), "--", "word")
    assert refused.code != 0
    assert "too old to pass arguments or environment variables on; nothing was sent" in refused.err
    assert "UploadTask" not in server.asked
    server.answers("UploadTask", pb.UploadTaskResponse(success=True))
    named = alice("submit", str(task), "--name", "n")
    assert named.code == 0
    assert "too old for names and labels" in named.err


def test_a_task_that_an_older_gateway_of_the_pool_took_is_stopped(
    server: Scripted, alice: Shell, task: Path
) -> None:
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True, capabilities=["inputs"]))
    server.answers("UploadTask", pb.UploadTaskResponse(success=True))
    server.answers("StopTask", pb.StopTaskResponse(success=True))
    done = alice("submit", str(task), "--", "word")
    assert done.code != 0
    assert "is stopped" in done.err
    assert server.asked["StopTask"][0].task_id == server.asked["UploadTask"][0].task_id


# -- the shell --------------------------------------------------------------------------------------


def _offered(environment: dict[str, str], *words: str) -> list[str]:
    """What bash would offer for the last of `words`."""
    done = run(
        environment
        | {
            "_HIVEMIND_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["hivemind", *words]),
            "COMP_CWORD": str(len(words)),
        }
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]


def test_a_shell_completes_commands_regions_tasks_nodes_and_images(
    environment: dict[str, str], server: Scripted
) -> None:
    known = environment | {"HIVEMIND_TOKEN": TOKEN}
    tasks = [
        pb.TaskStatus(task_id=each, status="RUNNING") for each in ("task_1", "task_2", "other", "task_3\n*")
    ]
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True, tasks=tasks))
    server.answers(
        "GetNodeList",
        pb.GetNodeListResponse(
            success=True, nodes=[pb.WorkerNodeInfo(node_id="bob/pc")], images=["python:3.12", "pytorch:2"]
        ),
    )
    assert _offered(known, "st") == ["status", "stop"]
    assert "--location-mode" in _offered(known, "submit", "--loc")
    assert _offered(known, "submit", "--location", "eu") == ["europe"]
    assert sorted(_offered(known, "status", "task")) == ["task_1", "task_2"]
    # One that stands there already is not offered twice.
    assert _offered(known, "rm", "task_1", "task") == ["task_2"]
    assert _offered(known, "node", "drain", "") == ["bob/pc"]
    assert _offered(known, "submit", "--image", "pyt") == ["python:3.12", "pytorch:2"]
    # bash cuts words at colons, and replaces what follows the last one.
    assert _offered(known, "submit", "--image", "python", ":", "3") == ["3.12"]
    assert _offered(known, "submit", "--image", "python", ":") == ["3.12"]
    address = known["HIVEMIND_GATEWAY"].partition(":")
    assert _offered(known, "--gateway", *address, "status", "task") == ["task_1", "task_2"]


def test_a_pool_that_refuses_or_is_away_offers_nothing(environment: dict[str, str], server: Scripted) -> None:
    def refuses(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.INTERNAL, "no")

    server.on("GetAllTasks", refuses)
    assert _offered(environment | {"HIVEMIND_TOKEN": TOKEN}, "status", "") == []
    away = environment | {"HIVEMIND_TOKEN": TOKEN, "HIVEMIND_GATEWAY": f"127.0.0.1:{free_port()}"}
    assert _offered(away, "status", "") == []
    assert _offered(environment, "status", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_side_is_printed(environment: dict[str, str], shell: str) -> None:
    done = run(environment, "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_HIVEMIND_COMPLETE" in done.stdout


def test_a_command_that_is_mistyped_is_guessed(environment: dict[str, str]) -> None:
    assert "Did you mean 'submit'" in run(environment, "submti").stderr
    assert "--location" in run(environment, "submit", "--locaton", "asia", ".").stderr


# -- odd surroundings -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp950", "latin-1", "ascii"])
def test_a_console_without_all_characters_is_shown_marks(
    environment: dict[str, str], server: Scripted, encoding: str
) -> None:
    name = "bob/\N{PILE OF POO}-é"
    server.answers(
        "GetNodeList", pb.GetNodeListResponse(success=True, nodes=[pb.WorkerNodeInfo(node_id=name)])
    )
    odd = environment | {"HIVEMIND_TOKEN": TOKEN, "PYTHONIOENCODING": encoding}
    for arguments in (["nodes"], ["nodes", "--json"], ["no\N{SNOWMAN}"]):
        done = run(odd, *arguments, encoding=encoding, errors="replace")
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (2 if len(arguments[0]) < 5 else 0), done.stderr


def test_a_user_without_a_home_is_one_all_the_same(environment: dict[str, str], server: Scripted) -> None:
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True))
    bare = {name: value for name, value in environment.items() if name not in ("HOME", "XDG_CONFIG_HOME")}
    assert run(bare | {"HIVEMIND_TOKEN": TOKEN}, "ls").returncode == 0


def test_a_proxy_for_the_web_is_no_way_to_this_machine(environment: dict[str, str], server: Scripted) -> None:
    server.answers("GetAllTasks", pb.GetAllTasksResponse(success=True))
    proxy = f"http://127.0.0.1:{free_port()}"
    names = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")
    proxied = environment | dict.fromkeys(names, proxy) | {"HIVEMIND_TOKEN": TOKEN}
    done = run(proxied, "ls")
    assert done.returncode == 0, done.stderr


def test_tls_against_plain_text_is_one_line_that_says_so(
    environment: dict[str, str], server: Scripted
) -> None:
    done = run(environment | {"HIVEMIND_TOKEN": TOKEN}, "--tls", "ls")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1, done.stderr
    assert "plain text, and TLS was asked for; use --no-tls" in done.stderr


def test_the_next_command_begins_with_the_gateway_that_worked(
    server: Scripted, alice: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Scripted()
    away.start()
    for it, answer in ((away, grpc.StatusCode.UNAVAILABLE), (server, pb.GetAllTasksResponse(success=True))):
        it.answers("GetAllTasks", answer)
    both = f"{away.address},{server.address}"
    monkeypatch.setattr("hivemind.cli.connect.random.choice", lambda values: values[0])
    for _ in range(3):
        assert alice("--gateway", both, "ls").code == 0
    assert (len(away.asked["GetAllTasks"]), len(server.asked["GetAllTasks"])) == (1, 3)
    # For some minutes, and for these gateways.
    remembered = Path(os.environ["HOME"]) / ".cache" / "hivemind" / "gateways.json"
    assert recall(remembered, both, time.time() + REMEMBERED_SECONDS) == ""
    assert recall(remembered, server.address, time.time()) == ""
    remembered.write_text("{broken")
    assert alice("--gateway", both, "ls").code == 0
    assert len(away.asked["GetAllTasks"]) == 2
    away.stop()
