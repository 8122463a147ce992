"""`hivemind secret` and `submit --secret`, against a server that answers to order: a value is never shown."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from hivemind import ClientError, MissingError, NodePoolClient, RefusedError, TaskNeeds
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import TOKEN, WITH_A_TERMINAL, Shell
from tests.support.scripted_server import Scripted

alice, environment, server, task = command.alice, command.environment, command.server, command.task
stranger = command.stranger

VALUE = "a-value-nobody-reads"
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    given = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    return given


def give(stdin: io.BytesIO, data: bytes) -> None:
    stdin.seek(0)
    stdin.truncate()
    stdin.write(data)
    stdin.seek(0)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (VALUE.encode(), VALUE),
        (f"{VALUE}\n".encode(), VALUE),
        (f"{VALUE}\r\n".encode(), VALUE),
        (f"{VALUE}\n\n".encode(), f"{VALUE}\n"),
        ("火鍋\nline two\n".encode(), "火鍋\nline two"),
    ],
)
def test_a_value_is_what_stdin_has_without_one_line_end(
    server: Scripted, alice: Shell, stdin: io.BytesIO, given: bytes, value: str
) -> None:
    server.answers("SetSecret", pb.SetSecretResponse(success=True, message="secret TOKEN is set"))
    give(stdin, given)
    done = alice("secret", "set", "TOKEN")
    assert (done.code, done.out, done.err) == (0, "", "secret TOKEN is set\n")
    (request,) = server.asked["SetSecret"]
    assert (request.name, request.value) == ("TOKEN", value)


@pytest.mark.parametrize(
    ("words", "given", "code", "told"),
    [
        (("TOKEN", VALUE), b"", 2, "the value of a secret is no argument"),
        ((f"TOKEN={VALUE}",), b"", 2, "the value of a secret is no argument"),
        (("TOKEN",), b"", 6, "is empty; nothing was set"),
        (("TOKEN",), b"\n", 6, "is empty"),
        (("TOKEN",), VALUE.encode() + b"\xff", 6, "not valid UTF-8: encode it"),
        (("TOKEN",), VALUE.encode() * 2000, 6, "over the 16384 bytes"),
        (("TOKEN",), VALUE.encode() + b"\0", 6, "NUL"),
        (("two-words",), VALUE.encode(), 6, "letters, digits and underscores"),
    ],
)
def test_what_is_no_secret_is_refused_before_anything_is_sent_and_is_not_shown(
    server: Scripted,
    alice: Shell,
    stdin: io.BytesIO,
    words: tuple[str, ...],
    given: bytes,
    code: int,
    told: str,
) -> None:
    give(stdin, given)
    done = alice("secret", "set", *words)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert VALUE not in done.err
    assert server.asked == {}


def test_in_a_terminal_one_is_asked_and_nothing_of_it_is_seen(
    server: Scripted, alice: Shell, environment: dict[str, str]
) -> None:
    server.answers("SetSecret", pb.SetSecretResponse(success=True, message="secret TOKEN is set"))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_A_TERMINAL, "secret", "set", "TOKEN"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**environment, "HIVEMIND_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while b"Value of TOKEN" not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, VALUE.encode() + b"\n")
        while b"is set" not in seen:
            seen += os.read(ours, 1000)
    finally:
        code = process.wait(30)
        os.close(ours)
    assert (code, server.asked["SetSecret"][0].value) == (0, VALUE)
    assert VALUE.encode() not in seen


def test_names_are_listed_with_when_they_were_set_and_values_are_not(server: Scripted, alice: Shell) -> None:
    secrets = [
        pb.Secret(name="A", set_at=time.time() - 7300),
        pb.Secret(name="B", set_at=time.time(), unreadable=True),
    ]
    server.answers("ListSecrets", pb.ListSecretsResponse(success=True, secrets=secrets))
    shown = alice("secret", "ls").out.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["NAME", "A", "B"]
    assert "2 h 1 min ago" in shown[1]
    assert "set it again: the pool's key is another one now" in shown[2]
    told = alice("secret", "ls", "--json").answer
    assert [(each["name"], each["unreadable"]) for each in told] == [("A", False), ("B", True)]
    server.answers("ListSecrets", pb.ListSecretsResponse(success=True))
    assert "hivemind secret set NAME" in alice("secret", "ls").err


def test_several_are_removed_and_those_that_are_not_there_are_named(server: Scripted, alice: Shell) -> None:
    removed = pb.RemoveSecretResponse(success=True, message="secret A is removed", waiting_tasks=2)
    server.answers("RemoveSecret", removed, grpc.StatusCode.NOT_FOUND)
    done = alice("secret", "rm", "A", "B", "A", "--json")
    assert done.code == 4
    assert [(it["name"], it["removed"], it["waiting_tasks"]) for it in done.answer] == [
        ("A", True, 2), ("B", False, 0),
    ]  # fmt: skip


def test_an_older_pool_says_that_it_keeps_none_and_is_sent_no_task_with_one(
    server: Scripted, alice: Shell, stdin: io.BytesIO, task: Path
) -> None:
    for method in ("SetSecret", "ListSecrets"):
        server.answers(method, UNIMPLEMENTED)
    give(stdin, VALUE.encode())
    for words in (("secret", "set", "TOKEN"), ("secret", "ls")):
        done = alice(*words)
        assert (done.code, done.err) == (1, "error: this pool is too old to keep secrets\n")
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True, capabilities=["inputs"]))
    for more in ((), ("--array", "0-1")):
        done = alice("submit", task, "--secret", "TOKEN", *more)
        assert (done.code, done.err) == (
            1, "error: this pool is too old to pass secrets on; nothing was sent\n",
        )  # fmt: skip
    assert not {"UploadTask", "SubmitArray"} & server.asked.keys()
    # Another gateway of the same pool is an older one.
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True, capabilities=["inputs", "secrets"]))
    server.answers("UploadTask", pb.UploadTaskResponse(success=True, inputs_kept=True))
    server.answers("StopTask", pb.StopTaskResponse(success=True))
    done = alice("submit", task, "--secret", "TOKEN", "--task-id", "t1")
    assert "too old to pass secrets on; task t1 is stopped" in done.err
    assert server.asked["StopTask"][0].task_id == "t1"


def test_a_task_names_secrets_and_where_they_may_go(server: Scripted, alice: Shell, task: Path) -> None:
    server.answers("HealthCheck", pb.HealthCheckResponse(healthy=True, capabilities=["inputs", "secrets"]))
    server.answers("UploadTask", pb.UploadTaskResponse(success=True, inputs_kept=True, secrets_kept=True))
    (task / ".env").write_text("A=1")
    (task / "id_rsa").write_text("x")
    words = ("--secret", "TOKEN", "--secret", "DB=PGPASSWORD", "--secret-on-low-trust", "--include", ".env")
    done = alice("submit", task, *words)
    assert done.code == 0, done.err
    assert done.err == "warning: left out what may be secret: id_rsa (--include PATTERN sends it)\n"
    (request,) = server.asked["UploadTask"]
    assert (list(request.secrets), request.secrets_on_low_trust) == (["TOKEN", "DB=PGPASSWORD"], True)
    assert b".env" in request.task_zip
    assert b"id_rsa" not in request.task_zip


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--secret-on-low-trust",), 2, "goes with --secret"),
        (("--secret", "A", "-e", "A=1"), 6, "A is both a variable and a secret"),
        (("--secret", "A=LD_AUDIT"), 6, "LD_AUDIT (it changes what programs load"),
        (("--secret", "A b"), 6, "letters, digits and underscores"),
    ],
)
def test_what_cannot_be_given_is_refused_before_anything_is_sent(
    server: Scripted, alice: Shell, task: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    done = alice("submit", task, *words)
    assert done.code == code
    assert told in done.err
    assert server.asked == {}


def test_the_sdk_raises_its_own_errors_only(server: Scripted) -> None:
    server.answers("RemoveSecret", grpc.StatusCode.NOT_FOUND)
    with NodePoolClient(server.address, token=TOKEN) as pool:
        for call in (lambda: pool.set_secret("9", VALUE), lambda: pool.set_secret("A", "")):
            with pytest.raises(RefusedError) as refused:
                call()
            assert VALUE not in str(refused.value)
        with pytest.raises(MissingError):
            pool.remove_secret("A")
    with pytest.raises(ClientError, match="two secrets cannot both be"):
        TaskNeeds(secrets=("A", "B=A"))
