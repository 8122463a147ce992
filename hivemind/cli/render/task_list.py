"""Lists of tasks: which columns there are, and which give way on a narrow screen.

Knows rich; knows neither the connection nor click.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from rich.text import Text

from hivemind.cli.render.columns import Column, FittedTable, Form
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import (
    STATE_STYLES,
    bytes_text,
    cut_text,
    duration_text,
    labels_text,
    status_text,
)
from hivemind.models import TaskInfo

_REASON_CHARACTERS = 60
_TITLES = {"ran": "RUN TIME", "exit": "EXIT"}
_NUMBERS = frozenset({"exit", "attempt", "priority", "held", "paid"})
# What does not fit of a reason goes on below; of these so much is left before they go.
_FOLDS_AT = {"reason": 16}
_SHORT = {"name": 14, "node": 16, "user": 12, "labels": 20}
#: What is shown where nobody says what.
USUAL = ("task", "name", "status", "node", "age", "ran", "reason")
# What gives way first. One that was asked for by its name does as well: a pipe has room for all.
_GIVE_WAY = (
    *("queue", "priority", "labels", "node", "name", "user", "attempt", "ran", "created", "age", "result"),
    *("held", "paid", "labels", "node", "user", "name", "exit", "reason"),
)


def _cells(now: float) -> dict[str, Callable[[TaskInfo], str | Text]]:
    return {
        "task": lambda task: task.task_id,
        "job": lambda task: task.job_id,
        "user": lambda task: task.owner,
        "name": lambda task: task.name,
        "labels": lambda task: labels_text(task.labels),
        "status": lambda task: status_text(task.status),
        "state": lambda task: Text(task.state.value, STATE_STYLES[task.state]),
        "node": lambda task: task.node,
        "age": lambda task: duration_text(now - task.created_at) if task.created_at else "",
        "created": lambda task: _moment(task.created_at),
        "ran": lambda task: duration_text(task.run_seconds(now)),
        "exit": lambda task: "" if task.exit_code is None else str(task.exit_code),
        "attempt": lambda task: str(task.attempt_number or ""),
        "priority": lambda task: str(task.priority) if task.max_minutes else "",
        "queue": lambda task: task.queue,
        "result": lambda task: bytes_text(task.result_bytes) if task.has_result else "",
        "held": lambda task: f"{task.held_cpt:,}" if task.held_cpt else "",
        "paid": lambda task: f"{task.paid_cpt:,}" if task.paid_cpt else "",
        "reason": lambda task: task.reason,
    }


#: In the order in which they are told.
COLUMNS = tuple(_cells(0.0))


def task_list(tasks: Sequence[TaskInfo], columns: Sequence[str], now: float) -> FittedTable[TaskInfo]:
    """What is for a screen has short reasons; a file or a pipe gets all."""
    cells, is_screen = _cells(now), sys.stdout.isatty()

    def column(name: str) -> Column[TaskInfo]:
        def cell(task: TaskInfo) -> Text:
            told = cells[name](task)
            if isinstance(told, Text):
                return told
            words = one_line(told)
            return Text(cut_text(words, _REASON_CHARACTERS) if name == "reason" and is_screen else words)

        title = _TITLES.get(name, name.upper())
        forms = [Form(title, cell)]
        if most := _SHORT.get(name):
            forms.append(Form(title, lambda task: Text(cut_text(cell(task).plain, most))))
        justify: Literal["left", "right"] = "right" if name in _NUMBERS else "left"
        return Column(name, tuple(forms), justify, _FOLDS_AT.get(name, 0))

    return FittedTable(
        tasks, [column(name) for name in columns], [name for name in _GIVE_WAY if name in columns]
    )


def _moment(at: float) -> str:
    """In UTC, to the second."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%SZ}" if at > 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""
