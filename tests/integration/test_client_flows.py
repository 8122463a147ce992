"""`hivemind run`, `submit --after`, flows in `hivemind job`: the command in this process, a real gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hivemind.errors import ExitCode
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import tasks
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.command import Ended, Shell
from tests.support.environment import ROOT
from tests.support.inner_gateway import InnerGateway
from tests.support.valkey import TestValkey

FLOW = ROOT / "examples/flow/flow.toml"


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(tmp_path_factory.mktemp("gateway"), valkey_server, newcomer_balance_cpt=100_000)
    yield made
    made.close()


@pytest.fixture(scope="module")
def account(gateway: InnerGateway) -> Account:
    return gateway.someone()


@pytest.fixture
def shell(
    gateway: InnerGateway,
    account: Account,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    for name in [name for name in os.environ if name.startswith(("HIVEMIND_", "XDG_"))]:
        if not name.startswith("HIVEMIND_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HIVEMIND_GATEWAY", f"127.0.0.1:{gateway.port}")
    monkeypatch.setenv("HIVEMIND_TOKEN", account.token)
    monkeypatch.chdir(tmp_path)
    return Shell(capfd, tmp_path)


def _answers(text: str) -> list[Any]:
    """The gateway is in this process, and its lines are not the command's."""
    return [json.loads(line) for line in text.splitlines() if line.startswith(("{", "["))]


def _problem(ended: Ended) -> str:
    return str(_answers(ended.err)[-1]["error"]["message"])


def test_the_example_is_sent_as_one_job_and_shown_step_by_step(shell: Shell) -> None:
    sent = shell("run", FLOW, "--job-id", "numbers")
    assert (sent.code, sent.out) == (0, "numbers\n")
    assert "3 steps, 52 tasks, at most 3,120 CPT" in sent.err
    assert _answers(shell("run", FLOW, "--job-id", "numbers", "--json").out)[-1]["repeated"] is True
    assert "52 tasks: accepted before; nothing was changed" in shell("run", FLOW, "--job-id", "numbers").err
    shown = shell("job", "status", "numbers").out
    for words in ("sum of numbers", "1 queued, 51 waiting", "STEP", "split", "add", "total"):
        assert words in shown
    assert "waiting for other tasks: it comes after step split" in shown
    assert "numbers.add.0" in shown
    told = _answers(shell("job", "status", "numbers", "--json").out)[-1]
    assert [(step["name"], step["needs"], step["tasks"]) for step in told["steps"]] == [
        ("split", [], 1), ("add", ["split"], 50), ("total", ["add"], 1),
    ]  # fmt: skip
    assert told["steps"][1]["counts"] == {"WAITING": 50}
    listed = _answers(shell("job", "tasks", "numbers", "--step", "add", "--limit", "2", "--json").out)[-1]
    assert [task["task_id"] for task in listed] == ["numbers.add.0", "numbers.add.1"]
    assert {task["state"] for task in listed} == {"WAITING"}
    assert _answers(shell("job", "ls", "--json").out)[-1][0]["kind"] == "flow"
    assert "51 waiting" in shell("job", "ls").out
    assert _answers(shell("job", "stop", "numbers", "--json").out)[-1]["stopped"] == 52
    assert shell("job", "watch", "numbers").code == ExitCode.INTERRUPTED


def test_an_array_that_is_sent_again_says_that_it_was_accepted_before(shell: Shell) -> None:
    words = (
        "submit",
        FLOW.parent / "add.py",
        "--matrix",
        "p=hello world,x",
        "--job-id",
        "twice",
        "--",
        "{p}",
    )
    assert "for 2 tasks, at most" in shell(*words).err
    again = shell(*words)
    assert (again.out, "2 tasks: accepted before; nothing was changed" in again.err) == ("twice\n", True)
    told = _answers(shell("status", "twice.0", "--json").out)[-1]
    assert told["arguments"] == ["hello world"]


def test_a_dry_run_shows_the_graph_and_the_price_and_sends_nothing(
    shell: Shell, gateway: InnerGateway
) -> None:
    before = gateway.packages()
    told = shell("run", FLOW, "--dry-run")
    assert told.code == 0
    for words in ("split", "add", "total", "3 steps, 52 tasks", "at most 3,120 CPT", "waiting: no"):
        assert words in told.out
    assert "nothing was sent" in told.err
    answer = _answers(shell("run", FLOW, "--dry-run", "--json").out)[-1]
    assert [(step["name"], step["most_cpt"]) for step in answer["steps"]] == [
        ("split", 60), ("add", 3000), ("total", 60),
    ]  # fmt: skip
    assert gateway.packages() == before
    dear = shell("run", FLOW, "--dry-run", "--max-cpt", "100", "--json")
    assert (dear.code, "3,120 CPT" in _problem(dear)) == (ExitCode.REFUSED, True)
    assert shell("run", FLOW, "--max-cpt", "100").code == ExitCode.REFUSED


def test_a_circle_is_refused_before_anything_is_sent(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "flow.toml"
    file.write_text("[steps.a]\npath = 'a.py'\nneeds = ['b']\n[steps.b]\npath = 'a.py'\nneeds = ['a']\n")
    shown = shell("run")
    assert shown.code == ExitCode.REFUSED
    assert "come after each other in a circle" in shown.err


def test_a_task_after_another_is_shown_and_ends_with_it(
    shell: Shell, account: Account, gateway: InnerGateway, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("print('hello')")
    first = shell("submit", "main.py").out.strip()
    second = shell("submit", "main.py", "--after", first, "--after-any", f"{first}x,other")
    assert second.code == ExitCode.NOT_FOUND
    second = shell("submit", "main.py", "--after", first).out.strip()
    third = _answers(shell("submit", "main.py", "--after-any", f"{first},{second}", "--json").out)[-1][
        "task_id"
    ]
    shown = shell("status", second).out
    assert "PENDING (WAITING)" in shown
    assert f"waiting for other tasks: it comes after task {first}" in shown
    assert f"{first} (however it ends) {second} (however it ends)" in shell("status", third).out
    explained = shell("explain", second).out
    assert f"is waiting for other tasks: it comes after task {first}" in explained
    assert "what it comes after has to end first" in explained
    assert "waiting for other tasks" in shell("ls").out
    dry = shell("submit", "main.py", "--after", second, "--dry-run")
    assert "would be accepted and wait for other tasks" in dry.out
    shell("stop", first)
    assert _answers(shell("status", second, "--json").out)[-1]["state"] == "STOPPED"
    refused = shell("submit", "main.py", "--after", second, "--json")
    assert (refused.code, "which was stopped" in _problem(refused)) == (ExitCode.REFUSED, True)
    assert _answers(shell("status", third, "--json").out)[-1]["state"] == "QUEUED"


def test_results_of_a_flow_go_where_its_steps_and_indices_say(
    shell: Shell, gateway: InnerGateway, tmp_path: Path
) -> None:
    shell("run", FLOW, "--job-id", "results")
    ended = tasks.update().where(tasks.c.job_id == "results").values(state="SUCCEEDED", finished_at=1.0)
    gateway.gateway.database.write(lambda c: c.execute(ended))
    assert shell("job", "result", "results", "--output", "out/{index}").code == ExitCode.REFUSED
    told = shell("job", "result", "results", "--output", "out/{step}/{index}")
    assert (told.code, "52 without files" in told.err) == (0, True)


def test_a_job_whose_step_failed_is_a_failure_and_no_interruption(
    shell: Shell, gateway: InnerGateway
) -> None:
    shell("run", FLOW, "--job-id", "failed")
    for column, state in ((tasks.c.id == "failed.split", "FAILED"), (tasks.c.job_index > 0, "STOPPED")):
        ended = tasks.update().where(tasks.c.job_id == "failed", column).values(state=state, finished_at=1.0)
        gateway.gateway.database.write(lambda c: c.execute(ended))  # noqa: B023
    assert shell("job", "watch", "failed").code == ExitCode.FAILURE


def test_an_older_pool_is_not_sent_what_it_would_run_at_once(
    shell: Shell, gateway: InnerGateway, account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text("print('hello')")
    monkeypatch.setattr("gateway.servicers.nodes.CAPABILITIES", ("inputs",))
    answer = account.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)
    assert list(answer.capabilities) == ["inputs"]
    told = shell("submit", "main.py", "--after", "something", "--json")
    assert told.code != 0
    assert "too old to let a task wait for others; nothing was sent" in _problem(told)
