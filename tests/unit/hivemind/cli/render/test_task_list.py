"""Lists of tasks on screens of 60 and 80 columns, and in a pipe."""

from __future__ import annotations

import io

import pytest

from hivemind.cli.render.task_list import COLUMNS, USUAL, task_list
from hivemind.cli.render.tasks import PlainConsole
from hivemind.models import TaskInfo
from nodepool.domain.tasks.states import TaskState

NOW = 1_700_000_000.0
TASK = TaskInfo(
    task_id="task_20261130_120000_0badcafe",
    status="FAILED",
    state=TaskState.FAILED,
    reason="exit code 3: " + "what went wrong in so many words " * 3,
    node="somebody/a-rather-long-name-of-a-node",
    name="learning rate 0.1 and more",
    labels={"sweep": "first", "lr": "0.1"},
    created_at=NOW - 4000,
    started_at=NOW - 3900,
    finished_at=NOW - 3000,
    exit_code=3,
    owner="ada",
    max_minutes=60,
)


def shown(width: int, columns: tuple[str, ...] = USUAL, *, task: TaskInfo = TASK) -> list[str]:
    file = io.StringIO()
    PlainConsole(file=file, width=width).print(task_list([task, task], columns, NOW))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_id_is_whole_and_no_line_is_too_long(width: int) -> None:
    lines = shown(width)
    assert max(map(len, lines)) <= width
    assert "TASK" in lines[0]
    if width >= 60:
        assert TASK.task_id in lines[1]
        assert "FAILED" in lines[1]
    assert ("REASON" in lines[0]) is (width >= 60)


def test_a_pipe_gets_all_on_one_line_each() -> None:
    lines = shown(20_000, COLUMNS)
    assert len(lines) == 3
    whole = (TASK.reason.strip(), TASK.node, TASK.name, "lr=0.1 sweep=first", "ada", "2023-11-14 21:06:40Z")
    for words in whole:
        assert words in lines[1]


def test_columns_stand_in_the_order_in_which_they_were_named() -> None:
    (head, *_) = shown(200, ("exit", "state", "task"))
    assert head.split() == ["EXIT", "STATE", "TASK"]


def test_words_of_others_do_no_harm() -> None:
    hostile = TaskInfo(
        task_id="t",
        status="\x1b[2J",
        state=TaskState.QUEUED,
        name="[red]\u202e",
        node="a\nb",
        reason="\r",
    )
    text = "\n".join(shown(200, USUAL, task=hostile))
    assert not any(mark in text for mark in ("\x1b", "\u202e", "\r", "\x07"))
    assert "[red]" in text
    assert len(text.splitlines()) == 3
