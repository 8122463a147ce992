"""The client and the `hivemind` command through a whole real pool."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hivemind import (
    ExistsError,
    MissingError,
    NodePoolClient,
    NotAllowedError,
    NotLoggedInError,
    NotYetError,
    OutputEvent,
    RefusedError,
    StateEvent,
    TaskNeeds,
    TaskState,
)
from hivemind.uploading import STREAM_ABOVE_BYTES
from tests.support.command import COMMAND, Ended, run_here
from tests.support.pool import TestPool
from tests.support.waiting import wait_until

PASSWORD = "correct horse battery"


def task_folder(root: Path, source: str, **files: bytes) -> Path:
    folder = root / f"task-{secrets.token_hex(4)}"
    folder.mkdir()
    (folder / "main.py").write_text(source)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def alice(pool: TestPool) -> Any:
    with NodePoolClient(pool.address) as client:
        name = f"alice-{secrets.token_hex(4)}"
        client.register(name, PASSWORD)
        client.login(name, PASSWORD)
        yield client


@dataclass(frozen=True)
class Shell:
    """The command in this process, with an environment and a home of its own."""

    environment: dict[str, str]
    said: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path) -> Ended:
        with mock.patch.dict(os.environ, self.environment, clear=True):
            return run_here(self.said, *arguments)

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        done = self(*arguments, "--json")
        assert done.code == code, done.err
        return json.loads(done.out if code == 0 else done.err)


@pytest.fixture
def shell(pool: TestPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    """Logged in as a new user."""
    home = tmp_path / "home"
    home.mkdir()
    environment = pool.base_environment() | {"HOME": str(home), "HIVEMIND_GATEWAY": pool.address}
    name = f"bob-{secrets.token_hex(4)}"
    logged_in = Shell(environment | {"HIVEMIND_PASSWORD": PASSWORD}, capfd)("register", name)
    assert logged_in.code == 0, logged_in.err
    return Shell(environment, capfd)


# -- the SDK ----------------------------------------------------------------------------------------


def test_a_directory_travels_through_the_pool_and_comes_back(
    pool: TestPool, alice: NodePoolClient, tmp_path: Path
) -> None:
    source = "print('hello'); open('answer.txt', 'w').write(open('data.bin').read() * 2)"
    folder = task_folder(tmp_path, source, **{"data.bin": b"21"})
    seen: list[tuple[int, int]] = []
    sent = alice.submit(folder, TaskNeeds(location="Asia"), progress=lambda *pair: seen.append(pair))
    assert not sent.repeated
    assert seen[-1] == (sent.package_bytes, sent.package_bytes)

    events = list(alice.watch(sent.task_id))
    states = [event.task for event in events if isinstance(event, StateEvent)]
    assert states[-1].state is TaskState.SUCCEEDED
    assert states[-1].exit_code == 0
    assert states[-1].node == pool.agents[0].node_id
    assert b"".join(event.data for event in events if isinstance(event, OutputEvent)) == b"hello\n"
    assert alice.logs(sent.task_id) == "hello\n"
    assert alice.wait(sent.task_id).state is TaskState.SUCCEEDED

    kept = alice.result(sent.task_id, tmp_path / "out", unpack=True)
    assert {"answer.txt", "main.py", "execution_log.txt", "task_logs.txt"} <= set(kept.files)
    assert (tmp_path / "out" / "answer.txt").read_text() == "2121"
    (listed,) = alice.list()
    assert (listed.task_id, listed.state, listed.owner) == (
        sent.task_id,
        TaskState.SUCCEEDED,
        alice.whoami().username,
    )


def test_a_token_tells_who_and_can_be_changed_for_a_new_one(alice: NodePoolClient) -> None:
    identity = alice.whoami()
    assert identity.username.startswith("alice-")
    assert identity.expires_at > 0
    assert alice.refresh().expires_at >= identity.expires_at
    assert alice.list() == []


def test_a_wrong_password_is_told(pool: TestPool, alice: NodePoolClient) -> None:
    with NodePoolClient(pool.address) as other, pytest.raises(NotLoggedInError):
        other.login(alice.whoami().username, "not the password")


def test_a_name_that_is_taken_is_told(alice: NodePoolClient) -> None:
    with pytest.raises(ExistsError):
        alice.register(alice.whoami().username, PASSWORD)


def test_a_large_package_is_streamed_to_the_pool(alice: NodePoolClient, tmp_path: Path) -> None:
    noise = os.urandom(STREAM_ABOVE_BYTES + 1000)
    folder = task_folder(tmp_path, "import os; print(os.path.getsize('noise.bin'))", **{"noise.bin": noise})
    sent = alice.submit(folder)
    assert sent.package_bytes > STREAM_ABOVE_BYTES
    assert alice.submit(folder, task_id=sent.task_id).repeated
    assert alice.wait(sent.task_id).state is TaskState.SUCCEEDED
    assert alice.logs(sent.task_id) == f"{len(noise)}\n"
    kept = alice.result(sent.task_id, tmp_path / "r.zip")
    assert zipfile.ZipFile(kept.path).read("noise.bin") == noise


def test_the_same_upload_is_accepted_again_and_another_one_is_not(
    alice: NodePoolClient, tmp_path: Path
) -> None:
    folder = task_folder(tmp_path, "print(1)")
    sent = alice.submit(folder)
    assert alice.submit(folder, task_id=sent.task_id).repeated
    (folder / "main.py").write_text("print(2)")
    with pytest.raises(ExistsError):
        alice.submit(folder, task_id=sent.task_id)
    assert alice.wait(sent.task_id).state is TaskState.SUCCEEDED
    assert alice.logs(sent.task_id) == "1\n"


def test_a_task_of_someone_else_is_out_of_reach(
    pool: TestPool, alice: NodePoolClient, tmp_path: Path
) -> None:
    sent = alice.submit(task_folder(tmp_path, "print('mine')"))
    alice.wait(sent.task_id)
    stranger = pool.register_user()
    with NodePoolClient(pool.address, token=stranger.token) as other:
        for attempt in (
            lambda: other.status(sent.task_id),
            lambda: other.logs(sent.task_id),
            lambda: other.stop(sent.task_id),
            lambda: list(other.watch(sent.task_id)),
            lambda: other.result(sent.task_id, tmp_path / "stolen.zip"),
        ):
            with pytest.raises((NotAllowedError, MissingError)):
                attempt()
    assert not (tmp_path / "stolen.zip").exists()


def test_a_watch_survives_a_restart_of_the_gateway(
    pool: TestPool, alice: NodePoolClient, tmp_path: Path
) -> None:
    source = (
        "import os, time\n"
        "print('before', flush=True)\n"
        "while not os.path.exists('/nowhere') and time.sleep(0.2) is None:\n"
        "    print('tick', flush=True)\n"
    )
    sent = alice.submit(task_folder(tmp_path, source))
    text = b""
    restarted = stopped = False
    for event in alice.watch(sent.task_id):
        if isinstance(event, OutputEvent):
            assert event.offset == len(text)
            assert event.skipped_bytes == 0
            text += event.data
        if text.count(b"tick") >= 3 and not restarted:
            pool.restart_gateway()
            restarted = True
        if text.count(b"tick") >= 12 and not stopped:
            alice.stop(sent.task_id)
            stopped = True
    assert alice.status(sent.task_id).state is TaskState.STOPPED
    assert text.startswith(b"before\ntick\n")
    assert set(text.split()) == {b"before", b"tick"}


# -- the command ------------------------------------------------------------------------------------


def test_following_a_task_ends_with_its_exit_code_output_and_files(shell: Shell, tmp_path: Path) -> None:
    source = "print('working'); open('half.txt', 'w').write('done'); raise SystemExit(3)"
    done = shell("submit", task_folder(tmp_path, source), "--follow", "--output", tmp_path / "out")
    assert done.code == 3, done.err
    assert done.out == "working\n"
    assert "failed" in done.err
    assert (tmp_path / "out" / "half.txt").read_text() == "done"


def test_a_task_ended_by_a_signal_says_which(shell: Shell, tmp_path: Path) -> None:
    done = shell("submit", task_folder(tmp_path, "import os; os.kill(os.getpid(), 9)"), "--follow")
    assert done.code == 137, done.err


def test_following_in_json_is_for_machines(shell: Shell, tmp_path: Path) -> None:
    done = shell("submit", task_folder(tmp_path, "print('x')"), "--follow", "--json")
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert lines[0]["event"] == "submitted"
    assert "".join(line["text"] for line in lines if line["event"] == "output") == "x\n"
    assert lines[-1]["event"] == "end"
    assert lines[-1]["exit_code"] == 0
    assert lines[-1]["task"]["status"] == "COMPLETED"


def test_commands_answer_in_json(shell: Shell, pool: TestPool, tmp_path: Path) -> None:
    task_id = shell.json("submit", task_folder(tmp_path, "print('x')"))["task_id"]
    assert shell("logs", "-f", task_id).out == "x\n"
    status = shell.json("status", task_id)
    assert (status["task_id"], status["status"], status["exit_code"]) == (task_id, "COMPLETED", 0)
    assert [task["task_id"] for task in shell.json("ls")] == [task_id]
    assert shell.json("logs", task_id) == {"task_id": task_id, "logs": "x\n"}
    assert shell.json("explain", task_id)["state"] == "SUCCEEDED"
    assert "main.py" in shell.json("result", task_id, "--output", tmp_path / "out")["files"]
    assert shell.json("result", task_id, "--zip", tmp_path / "r.zip")["result_bytes"] > 0
    nodes = {node["node_id"]: node for node in shell.json("nodes")}
    node = nodes[pool.agents[0].node_id]
    assert (node["status"], node["region"], node["owner"]) == ("ONLINE", "asia", pool.owner.username)
    assert node["memory_gb"] >= 0
    assert node["max_tasks"] > 0
    balance = shell.json("balance")
    assert balance["balance_cpt"] == balance["balance"] > 0
    assert balance["username"].startswith("bob-")


def test_tables_are_for_people(shell: Shell, pool: TestPool, tmp_path: Path) -> None:
    task_id = shell("submit", task_folder(tmp_path, "print('x')")).out.strip()
    assert shell("logs", "-f", task_id).code == 0
    for arguments, words in (
        (("ls",), (task_id, "COMPLETED")),
        (("status", task_id), (task_id, "COMPLETED", "attempt")),
        (("nodes",), (pool.agents[0].node_id, "ONLINE", "asia", "low")),
        (("explain", task_id), (task_id, "succeeded")),
    ):
        done = shell(*arguments)
        assert done.code == 0, done.err
        assert all(word in done.out for word in words), done.out


def test_a_dry_run_tells_the_node_and_a_suggestion_that_is_followed_places_the_task(
    shell: Shell, pool: TestPool, tmp_path: Path
) -> None:
    folder = task_folder(tmp_path, "print('x')")
    told = shell.json("submit", folder, "--dry-run", "--memory-gb", "100000")["explanation"]
    assert (told["places_now"], told["can_never_run"]) == (False, True)
    value = next(each["value"] for each in told["suggestions"] if each["field"] == "memory_gb")
    followed = shell.json("submit", folder, "--dry-run", "--memory-gb", value)
    assert followed["package"]["entry_script"] == "main.py"
    assert followed["explanation"]["places_now"]
    assert followed["explanation"]["best_node"] in {agent.node_id for agent in pool.agents}
    assert followed["explanation"]["max_price_cpt"] > 0
    assert shell.json("ls") == []


def test_a_task_keeps_its_wishes_and_a_record_of_its_attempt(
    shell: Shell, pool: TestPool, tmp_path: Path
) -> None:
    requested = ("--priority", "8", "--min-trust", "low", "--location", "asia", "--location-mode", "prefer")
    task_id = shell.json("submit", task_folder(tmp_path, "print('x')"), *requested)["task_id"]
    assert shell("logs", "-f", task_id).out == "x\n"
    status = shell.json("status", task_id)
    assert (status["priority"], status["min_trust"], status["location_mode"]) == (8, "low", "prefer")
    (attempt,) = status["attempts"]
    assert (attempt["number"], attempt["node"], attempt["state"]) == (1, pool.agents[0].node_id, "finished")
    assert (attempt["exit_code"], attempt["bytes_in"] > 0, attempt["bytes_out"] > 0) == (0, True, True)
    assert attempt["placed_at"] <= attempt["started_at"] <= attempt["finished_at"]
    (look,) = [json.loads(line) for line in shell("top", "--once", "--json").out.splitlines()]
    assert look["totals"]["online"] >= 1
    assert look["totals"]["cpu"]["capacity"] > 0


def test_an_interrupt_can_stop_the_task_and_still_bring_its_files(shell: Shell, tmp_path: Path) -> None:
    source = (
        "import time\nopen('half.txt', 'w').write('half')\nprint('working', flush=True)\ntime.sleep(600)\n"
    )
    options = ("--follow", "--stop-on-interrupt", "--output", tmp_path / "out")
    with subprocess.Popen(
        [*COMMAND, "submit", str(task_folder(tmp_path, source)), *map(str, options)],
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert (tmp_path / "out" / "half.txt").read_text() == "half"
    assert (tmp_path / "out" / "task_stopped.txt").exists()


def test_a_result_is_not_there_before_the_end(shell: Shell, tmp_path: Path) -> None:
    task_id = shell("submit", task_folder(tmp_path, "import time; time.sleep(600)")).out.strip()
    error = shell.json("result", task_id, "--output", tmp_path / "out", code=7)["error"]
    assert error["code"] == "not_yet"
    assert not (tmp_path / "out").exists()
    assert shell("stop", task_id).code == 0
    wait_until(lambda: shell.json("status", task_id)["status"] == "STOPPED", "the task is stopped")


def test_a_task_that_fits_nowhere_tells_why_and_can_be_stopped(shell: Shell, tmp_path: Path) -> None:
    folder = task_folder(tmp_path, "print('x')")
    task_id = shell("submit", folder, "--memory-gb", "100000").out.strip()
    wait_until(lambda: "memory" in shell.json("explain", task_id)["message"], "the reason names the memory")
    assert shell.json("explain", task_id)["state"] == "QUEUED"
    assert shell("stop", task_id).code == 0
    wait_until(lambda: shell.json("status", task_id)["status"] == "STOPPED", "the task is stopped")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("status", "no-such-task"), 4),
        (("logs", "no-such-task"), 4),
        (("logs", "-f", "no-such-task"), 4),
        (("stop", "no-such-task"), 4),
        (("result", "no-such-task"), 4),
        (("node", "drain", "no-such-node"), 4),
        (("transfer", "no-such-user", "5"), 4),
    ],
)
def test_what_is_not_there_is_exit_code_4(shell: Shell, arguments: tuple[str, ...], code: int) -> None:
    assert shell.json(*arguments, code=code)["error"]["exit_code"] == code


def test_cpt_that_is_not_there_cannot_be_given(shell: Shell, pool: TestPool) -> None:
    assert shell("transfer", pool.owner.username, str(10**15)).code == 6


def test_refused_uploads_are_exit_code_6(shell: Shell, tmp_path: Path) -> None:
    folder = task_folder(tmp_path, "print('x')")
    assert shell("submit", folder, "--network").code == 6
    assert shell("submit", folder, "--image", "not/allowed:1").code == 6
    (tmp_path / "empty").mkdir()
    assert shell("submit", tmp_path / "empty").code == 6
    huge = task_folder(tmp_path, "print('x')", **{"noise.bin": os.urandom(11 << 20)})
    assert shell("submit", huge).code == 6


def test_a_node_is_drained_and_resumed_by_its_owner_only(shell: Shell, pool: TestPool) -> None:
    node_id = pool.agents[0].node_id
    assert shell("node", "drain", node_id).code in {3, 4}
    owner = Shell(shell.environment | {"HIVEMIND_TOKEN": pool.owner.token}, shell.said)

    def draining() -> bool:
        return bool(next(n["draining"] for n in owner.json("nodes") if n["node_id"] == node_id))

    assert owner("node", "drain", node_id).code == 0
    wait_until(draining, "the node is draining")
    assert owner("node", "resume", node_id).code == 0
    wait_until(lambda: not draining(), "the node takes work again")


def test_a_logged_out_user_is_told_to_log_in(shell: Shell) -> None:
    assert shell("logout").code == 0
    error = shell.json("ls", code=3)["error"]
    assert "hivemind login" in error["hint"]


def test_sdk_calls_that_make_no_sense_never_reach_the_pool(alice: NodePoolClient) -> None:
    with pytest.raises(RefusedError):
        alice.transfer("bob", 0)
    with pytest.raises(NotYetError):
        alice.wait("no-such-task", timeout_seconds=0)
