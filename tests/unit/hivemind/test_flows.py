"""flow.toml: what it says, and what is wrong with it, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind import job_results
from hivemind.errors import BadResultError, RefusedError
from hivemind.flows import read_flow

FLOW = """
name = "word count"
labels = {run = "first"}
max_cpt = 500

[steps.sum]
path = "sum"
needs = ["count"]
arguments = ["{count.result}", 3]
memory_gb = 2
exclusive = true

[steps.count]
path = "count.py"
needs = ["split"]
array = "0-4"
arguments = ["{split.result}/{index}.txt"]
env = {LEVEL = 1, NAME = "{{index}}"}

[steps.split]
path = "split"
env_file = "common.env"
after = "task_1"
labels = {stage = "first"}
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "flow.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_becomes_steps_in_their_order_with_the_options_of_submit(tmp_path: Path) -> None:
    (tmp_path / "common.env").write_text("LEVEL=7\n", encoding="utf-8")
    flow = read_flow(_write(tmp_path, FLOW))
    assert [step.name for step in flow.in_order()] == ["split", "count", "sum"]
    assert (flow.name, flow.labels, flow.max_cpt, flow.tasks) == ("word count", {"run": "first"}, 500, 7)
    last, count, split = flow.steps
    assert (last.task.arguments, last.task.memory_gb, last.task.exclusive) == (
        ("{count.result}", "3"),
        2,
        True,
    )
    assert (count.source, count.tasks, count.task.environment) == (
        tmp_path / "count.py", 5, {"LEVEL": "1", "NAME": "{{index}}"},
    )  # fmt: skip
    assert (split.task.environment, split.task.after, split.task.labels) == (
        {"LEVEL": "7"}, ("task_1",), {"stage": "first"},
    )  # fmt: skip
    assert [items.count(b"\n") for items in flow.check()] == [0, 5, 0]


def test_lines_and_matrices_make_arrays_of_steps(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("lr\n0.1\n0.2\n", encoding="utf-8")
    text = """
    [steps.a]
    path = "a"
    each_line = "runs.csv"
    arguments = ["{lr}"]
    [steps.b]
    path = "a"
    matrix = {lr = [0.1, 0.01], seed = "1-3"}
    env = ["HOME_OF_MINE"]
    [steps.c]
    path = "a"
    matrix = {prompt = ["hello, world", "1-3"]}
    """
    flow = read_flow(_write(tmp_path, text), {"HOME_OF_MINE": "here"})
    assert [step.tasks for step in flow.steps] == [2, 6, 2]
    assert flow.steps[2].sweep is not None
    assert [values for _, values in flow.steps[2].sweep.rows] == [("hello, world",), ("1-3",)]
    assert flow.steps[1].task.environment == {"HOME_OF_MINE": "here"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[steps.a", "is no TOML"),
        ("a = " + "[" * 100_000, "is no TOML"),
        ("#" * ((1 << 20) + 1), "has more than 1 MiB"),
        ("", "1 to 100 steps, not 0"),
        ("steps = 3", "steps must be a table"),
        ("[step.a]\npath = 'a'", "a flow has no 'step': did you mean 'steps'?"),
        ("[steps.a]\n", "step 'a' has no path"),
        ("[steps.a]\npath = 'a'\nmemry = 1", "step 'a' has no 'memry': did you mean 'memory'?"),
        ("[steps.a]\npath = 'a'\nmemory = 1", "step 'a': memory takes a number with its unit"),
        ("[steps.a]\npath = 'a'\nmemory_gb = '1'", "memory_gb must be a whole number, not '1'"),
        ("[steps.a]\npath = 'a'\nnetwork = 1", "network is true or false, not 1"),
        ("[steps.a]\npath = 'a'\nreplicas = 2", "step 'a' has no 'replicas'"),
        ("[steps.a]\npath = 'a'\nenv = {PATH = 'x'}", "a task cannot set PATH"),
        ("[steps.a]\npath = 'a'\nenv = ['NOT_THERE']", "your environment has no NOT_THERE"),
        ("[steps.a]\npath = 'a'\narray = '0-1'\nmatrix = 'x=1'", "array and matrix each say"),
        ("[steps.a]\npath = 'a'\narray = '3-1'", "ends before it begins"),
        ("[steps.a]\npath = 'a'\nneeds = ['a']", "cannot come after itself"),
        ("[steps.a]\npath = 'a'\nneeds = ['b']", "which is no step"),
        ("[steps.a]\npath = 'a'\nneeds = ['b']\n[steps.b]\npath = 'b'\nneeds = ['a']", "in a circle"),
        ("[steps.a]\npath = 'a'\narguments = [[1]]", "neither a text nor a number"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_the_step(tmp_path: Path, text: str, words: str) -> None:
    file = _write(tmp_path, text)
    with pytest.raises(RefusedError) as told:
        read_flow(file)
    assert words in str(told.value)
    assert str(told.value).startswith(str(file))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[steps.a]\npath = 'a'\narguments = ['{lr}']", "which no task has a value for"),
        ("[steps.a]\npath = 'a'\narguments = ['{']", "has a single '{'"),
        (
            "[steps.a]\npath = 'a'\n[steps.b]\npath = 'b'\narguments = ['{a.result}']",
            "does not come after 'a': add it to its needs",
        ),
    ],
)
def test_what_no_task_can_be_given_is_refused_before_it_is_sent(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(RefusedError) as told:
        read_flow(_write(tmp_path, text)).check()
    assert words in str(told.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        read_flow(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("task_id", "path"),
    [("job.7", "out/7"), ("job.add.7", "out/add/7"), ("job.total", "out/total/0")],
)
def test_results_lie_by_step_and_index(task_id: str, path: str) -> None:
    place = job_results.place_of("job", task_id)
    template = "out/{step}/{index}" if place.step else "out/{index}"
    assert place.path(template) == Path(path)


@pytest.mark.parametrize("task_id", ["other.add.7", "job.add.x", "job./etc", "job.add.7.8", "job", "job."])
def test_what_no_task_of_the_job_is_called_becomes_no_directory(task_id: str) -> None:
    with pytest.raises(BadResultError):
        job_results.place_of("job", task_id)


def test_one_directory_for_several_tasks_is_refused() -> None:
    job_results.check_template("{task}", is_flow=True)
    for template in ("out/{index}", "out/{step}", "out"):
        with pytest.raises(RefusedError, match="one directory for several tasks"):
            job_results.check_template(template, is_flow=True)
