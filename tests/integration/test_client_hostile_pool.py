"""Every command against a pool, and through it other users and nodes, whose every word is an attack."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from hivemind.cli.entry import _COMMANDS
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import COMMAND, TOKEN, Shell
from tests.support.hostile_words import HOSTILE, SEEN, filled, unsafe
from tests.support.scripted_server import SERVICES, Scripted, in_chunks, token_of
from tests.support.tasks import package

alice, environment, server = command.alice, command.environment, command.server
stranger, task = command.stranger, command.task

HOSTILE_TOKEN = token_of(HOSTILE, exp=4_000_000_000)
# What follows from pages is asked for until there is no more; a task that never ends is followed for ever.
ANSWERS: dict[str, Any] = {
    "Login": filled(pb.LoginResponse, token=HOSTILE_TOKEN),
    "ChangePassword": filled(pb.ChangePasswordResponse, token=HOSTILE_TOKEN),
    "RefreshToken": filled(pb.RefreshTokenResponse, token=HOSTILE_TOKEN),
    "GetStatement": filled(pb.GetStatementResponse),
    "ListUsers": filled(pb.ListUsersResponse, next_after_username=""),
    "ListTasks": filled(pb.ListTasksResponse, next_page_token=""),
    "ListUserTasks": filled(pb.ListTasksResponse, next_page_token=""),
}
COMMANDS: dict[str, list[list[str]]] = {
    "register": [["register", "alice"]],
    "login": [["login", "alice"]],
    "logout": [["logout"]],
    "whoami": [["whoami"]],
    "submit": [["submit", "TASK"], ["submit", "TASK", "--dry-run"], ["submit", "TASK", "--follow"]],
    "ls": [["ls"]],
    "status": [["status", "t1"]],
    "explain": [["explain", "t1"]],
    "completion": [["completion", "bash"]],
    "job": [
        ["job", "ls"],
        ["job", "status", "j1"],
        ["job", "watch", "j1"],
        ["job", "tasks", "j1", "--limit", "2"],
        ["job", "result", "j1"],
        ["job", "stop", "j1"],
        ["job", "resubmit", "j1", "--failed"],
    ],
    "logs": [["logs", "-f", "t1"]],
    "stop": [["stop", "t1"], ["stop", "several"], ["stop", "t1", "t2"]],
    "wait": [["wait", "t1"], ["wait", "--label", "k=v"]],
    "result": [["result", "t1", "--force"], ["result", "--label", "k=v"]],
    "nodes": [["nodes"]],
    "top": [["top", "--once"]],
    "node": [["node", "drain", "n1"], ["node", "resume", "n1"]],
    "balance": [["balance"]],
    "transfer": [["transfer", "bob", "1"]],
    "ledger": [["ledger"]],
    "credit": [["credit"]],
    "passwd": [["passwd", "--password-stdin"]],
    "admin": [
        ["admin", "mint", "bob", "1"],
        ["admin", "set-score", "bob", "1", "--reason", "x"],
        ["admin", "block", "bob", "--reason", "x"],
        ["admin", "unblock", "bob"],
        ["admin", "reverse", "e1", "--reason", "x"],
        ["admin", "list"],
        ["admin", "audit"],
        ["admin", "tasks"],
        ["admin", "tasks", "show", "t1"],
        ["admin", "tasks", "explain", "t1"],
        ["admin", "tasks", "logs", "t1", "--reason", "x"],
        ["admin", "tasks", "stop", "t1", "--reason", "x"],
    ],
    "rm": [["rm", "t1"]],
    "resubmit": [["resubmit", "t1"]],
    "run": [["run", "FLOW"], ["run", "FLOW", "--dry-run"]],
    "secret": [["secret", "ls"], ["secret", "rm", "NAME"]],
    "notify": [
        ["notify", "set", "phone", "https://example.org"],
        ["notify", "ls"],
        ["notify", "test", "phone"],
        ["notify", "confirm", "phone", "1"],
        ["notify", "rm", "phone"],
    ],
}
ALL = [words for lines in COMMANDS.values() for words in lines]
TABLES = [["ls"], ["status", "t1"], ["explain", "t1"], ["nodes"], ["top", "--once"], ["ledger"], ["credit"]]
TABLES += [["admin", "list"], ["admin", "audit"], ["admin", "tasks"], ["admin", "tasks", "show", "t1"]]


def hostile_result() -> bytes:
    return package({"main.py": "", "a\u202eb.txt": "1", "c\x1b[31md.txt": "2", "[red]e[/red].txt": "3"})


@pytest.fixture
def hostile(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Whatever is asked, every text of the answer is the worst."""
    monkeypatch.setenv("HIVEMIND_PASSWORD", "correct horse")
    for base in SERVICES:
        service = pb.DESCRIPTOR.services_by_name[base.__name__.removesuffix("Servicer")]
        for method in service.methods:
            made = ANSWERS.get(method.name) or filled(getattr(pb, method.output_type.name))
            if method.server_streaming:
                continue
            server.answers(method.name, made)
    ended = filled(pb.TaskDetail, state="SUCCEEDED", exit_code=0)
    server.on("WatchTask", lambda *_: iter([pb.WatchTaskResponse(state=ended)]))
    listed = pb.TaskStatus(task_id="t1", status=HOSTILE, detail=ended)
    server.on("WatchTasks", lambda *_: iter([pb.WatchTasksResponse(task=listed)]))
    server.on("ResolveIds", _resolve)
    server.on("DownloadResult", lambda *_: in_chunks(hostile_result()))
    return server


def _resolve(request: pb.ResolveIdsRequest, _context: object) -> pb.ResolveIdsResponse:
    """Anything is a task, and one name is several ones'."""
    found = [
        filled(pb.ResolvedId, name=name, task_id="", job_id="")
        if name == "several"
        else pb.ResolvedId(name=name, task_id=name)
        for name in request.names
    ]
    return pb.ResolveIdsResponse(ids=found)


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) == set(_COMMANDS)


def test_no_word_of_others_is_obeyed_by_a_terminal_or_hidden_from_an_eye(
    hostile: Scripted, alice: Shell, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hostile.port
    (task / "flow.toml").write_text('[steps.one]\npath = "."\n')
    files = {"TASK": str(task), "FLOW": str(task / "flow.toml")}
    for words in ALL:
        with Path(os.devnull).open() as nothing, monkeypatch.context() as patch:
            if words[0] in {"whoami", "passwd", "login", "register"}:
                patch.setenv("HIVEMIND_TOKEN", HOSTILE_TOKEN)
            patch.setattr(sys, "stdin", nothing)
            shown = alice(*(files.get(word, word) for word in words))
        assert unsafe(shown.out + shown.err) == [], words


def test_brackets_in_tables_are_no_markup_and_json_is_for_machines(hostile: Scripted, alice: Shell) -> None:
    assert hostile.port
    for words in TABLES:
        shown = alice(*words)
        assert (shown.code, SEEN in shown.out.replace("\n", "")) == (0, True), words
        told = alice(*words, "--json")
        assert unsafe(told.out) == [], words
        assert HOSTILE in list(_texts(json.loads(told.out))), words


def test_on_a_terminal_the_only_escapes_are_our_own_colours(
    hostile: Scripted, environment: dict[str, str], tmp_path: Path
) -> None:
    assert hostile.port
    screen, end = pty.openpty()
    try:
        with (tmp_path / "stderr").open("wb") as errors:
            done = subprocess.run(
                [*COMMAND, "nodes"],
                stdout=end,
                stderr=errors,
                env=environment
                | {"HIVEMIND_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
                timeout=60,
                check=False,
            )
        os.close(end)
        end = -1
        shown = b""
        while piece := _read(screen):
            shown += piece
    finally:
        os.close(screen)
        if end >= 0:
            os.close(end)
    assert done.returncode == 0
    text = shown.decode().replace("\r\n", "\n")
    # Taken out: what rich writes for its own styles.
    for part in text.split("\x1b")[1:]:
        assert part.lstrip("[0123456789;").startswith("m")
    assert unsafe(text.replace("\x1b", "")) == []


def test_errors_of_a_hostile_server_are_one_harmless_line(server: Scripted, alice: Shell) -> None:
    def refuse(_request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, HOSTILE)

    server.on("GetNodeList", refuse)
    refused = alice("nodes")
    assert refused.code == 6
    assert refused.err.count("\n") == 1
    assert unsafe(refused.err) == []
    told = alice("nodes", "--json")
    assert unsafe(told.err) == []
    assert told.error["code"] == "refused"


def _read(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # its other end is closed
        return b""


def _texts(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
