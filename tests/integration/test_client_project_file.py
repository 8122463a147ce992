"""`hivemind submit` with a hivemind.toml, against a server that answers to order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from hivemind.cli.project_defaults import COMMAND_LINE_ONLY
from hivemind.cli.submit import submit
from nodepool.protocol import nodepool_pb2 as pb
from tests.support import command
from tests.support.command import Shell
from tests.support.scripted_server import Scripted

alice, environment, server = command.alice, command.environment, command.server
stranger, task = command.stranger, command.task

SAYS = """
[submit]
memory-gb = 2
location = "asia"
network = true
compare = ["out/*.csv"]
replicas = 2
env = { MODE = "fast", SEED = "1" }
labels = { of = "thesis", kind = "sweep" }
"""


def asked(server: Scripted, alice: Shell, task: Path, *options: str) -> pb.UploadTaskRequest:
    server.answers("ExplainTask", pb.ExplainTaskResponse(success=True, message="would run now"))
    done = alice("submit", task, "--dry-run", *options)
    assert done.code == 0, done.err
    assert f"come from {task / 'hivemind.toml'}" in done.err
    request: pb.UploadTaskRequest = server.asked["ExplainTask"][-1].task
    return request


def test_what_is_not_given_comes_from_the_file(server: Scripted, alice: Shell, task: Path) -> None:
    (task / "hivemind.toml").write_text(SAYS)
    found = asked(server, alice, task)
    assert (found.memory_gb, found.location, found.network, found.replicas) == (2, "asia", True, 2)
    assert list(found.compare_outputs) == ["out/*.csv"]
    assert dict(found.environment) == {"MODE": "fast", "SEED": "1"}
    assert dict(found.labels) == {"of": "thesis", "kind": "sweep"}


def test_what_is_given_wins(server: Scripted, alice: Shell, task: Path) -> None:
    (task / "hivemind.toml").write_text(SAYS)
    given = ("--memory-gb", "4", "-e", "SEED=7", "--label", "kind=single", "--compare", "a.txt")
    found = asked(server, alice, task, *given)
    assert (found.memory_gb, found.location) == (4, "asia")
    assert list(found.compare_outputs) == ["a.txt"]
    assert dict(found.environment) == {"MODE": "fast", "SEED": "7"}
    assert dict(found.labels) == {"of": "thesis", "kind": "single"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memory-bg = 2", "has no memory-bg; did you mean memory-gb?"),
        ("memory-gb = 2.5", "memory-gb must be a whole number, not 2.5"),
        ("memory-gb = true", "memory-gb must be a whole number"),
        ("network = 'yes'", "network must be true or false"),
        ("compare = 'out'", "compare must be a list of texts"),
        ("location = 3", "location must be a text"),
        ("task-id = 'x'", "has no task-id"),
        ("gateway = 'somebody.example:50051'", "has no gateway"),
        ("secret = ['KEY']", "has no secret"),
        ("env-file = '/etc/passwd'", "has no env-file"),
        ("min-trust = 'total'", "'total' is not one of"),
    ],
)
def test_what_a_project_cannot_say_is_refused(
    server: Scripted, alice: Shell, task: Path, text: str, words: str
) -> None:
    (task / "hivemind.toml").write_text(f"[submit]\n{text}\n")
    done = alice("submit", task)
    assert done.code in (2, 6)
    assert words in " ".join(done.err.split())
    assert server.asked == {}


def test_what_only_the_command_line_says_is_of_one_submit_or_of_who_submits() -> None:
    """An option that is new must be thought of: may a project that was fetched from somewhere say it?"""
    options = {max(each.opts, key=len).removeprefix("--") for each in _options()}
    assert options - COMMAND_LINE_ONLY == {
        "compare", "cpu-score", "env", "exclusive", "fresh", "gpu-memory-gb", "gpu-name", "gpu-score",
        "image", "location", "location-mode", "max-minutes", "memory", "memory-gb", "min-trust", "name",
        "network", "notify", "priority", "replicas", "retries", "retry-on", "backoff", "take-pending",
    }  # fmt: skip


def _options() -> list[Any]:
    return [each for each in submit.params if isinstance(each, click.Option)]
