"""How a job looks to people, and its JSON shape.

Knows rich; knows neither the connection nor click.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from hivemind.cli.render.columns import Column, FittedTable, Form, PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import (
    STATE_STYLES,
    PlainConsole,
    count_text,
    cut_text,
    duration_text,
    jsonable,
    labels_text,
)
from hivemind.cli.render.told import told_text
from hivemind.jobs import JobInfo, ReasonGroup
from nodepool.domain.tasks.states import TaskState

Row = TypeVar("Row")


def job_json(job: JobInfo) -> dict[str, Any]:
    told: dict[str, Any] = jsonable(job)
    told["counts"], told["ended"] = _by_word(job.counts), job.ended
    for step, shown in zip(job.steps, told["steps"], strict=True):
        shown["counts"], shown["ended"] = _by_word(step.counts), step.ended
    return told


def _by_word(counts: Mapping[TaskState, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}


def jobs_table(jobs: Sequence[JobInfo], now: float) -> FittedTable[JobInfo]:
    """Ids are always whole: they are what people take from it."""
    cells: dict[str, Callable[[JobInfo], str | Text]] = {
        "JOB": lambda job: job.job_id,
        "NAME": lambda job: job.name,
        "TASKS": lambda job: f"{job.tasks:,}",
        "ENDED": lambda job: f"{100 * job.ended // job.tasks if job.tasks else 100} %",
        "AGE": lambda job: duration_text(now - job.created_at) if job.created_at else "",
        "STATES": lambda job: _states(job.counts),
    }
    columns = [
        Column(
            name,
            (Form(name, _text(cell)), *([Form(name, _text(cell, 14))] if name == "NAME" else [])),
            "right" if name in ("TASKS", "ENDED") else "left",
            16 if name == "STATES" else 0,
        )
        for name, cell in cells.items()
    ]
    return FittedTable(jobs, columns, ("NAME", "AGE", "NAME", "TASKS"))


def _text(cell: Callable[[Row], str | Text], most: int = 0) -> Callable[[Row], Text]:
    def told(row: Row) -> Text:
        found = cell(row)
        if isinstance(found, Text):
            return found
        return Text(cut_text(one_line(found), most) if most else one_line(found))

    return told


def job_line(job: JobInfo, now: float) -> str:
    """Its progress, on one line."""
    left = job.seconds_left(now)
    about = f", about {duration_text(left)} left at this pace" if left is not None else ""
    return f"{job.ended:,} of {count_text(job.tasks, 'task')} ended: {_states(job.counts).plain}{about}"


@contextmanager
def job_bar(*, shown: bool) -> Iterator[Callable[[JobInfo], None] | None]:
    """A bar on stderr for the tasks that have ended; None where that is no terminal."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        console=PlainConsole(stderr=True),
        transient=True,
    )
    with bar:
        row = bar.add_task("", total=None)

        def told(job: JobInfo) -> None:
            left = job.seconds_left(time.time())
            about = f", about {duration_text(left)} left" if left is not None else ""
            words = f"{_states(job.counts).plain}{about}"
            bar.update(row, total=job.tasks, completed=job.ended, description=words)

        yield told


def job_details(job: JobInfo, now: float) -> Group:
    left = job.seconds_left(now)
    rows = {
        "job": one_line(job.job_id),
        "name": one_line(job.name),
        "again": one_line(job.resubmit_of),
        "labels": one_line(labels_text(job.labels)),
        "tasks": f"{job.tasks:,}",
        "ended": f"{job.ended:,}",
        "age": duration_text(now - job.created_at) if job.created_at else "",
        "may be done in": f"{duration_text(left)} (at the pace since it was sent)"
        if left is not None
        else "",
        "stop": "asked for" if job.stop_requested and not job.final else "",
        "paid": f"{job.paid_cpt:,} CPT",
        "held": f"{job.held_cpt:,} CPT" if job.held_cpt else "",
        "notify": one_line(told_text(job.notifications, job.notify)),
    }
    table = PlainTable.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, Text(text))
    table.add_row("states", _states(job.counts))
    parts: list[RenderableType] = [table]
    if job.steps:
        parts += ["", _steps(job)]
    if job.reasons:
        parts += ["", _reasons(job)]
    return Group(*parts)


def _reasons(job: JobInfo) -> FittedTable[ReasonGroup]:
    cells: dict[str, Callable[[ReasonGroup], str | Text]] = {
        "TASKS": lambda each: f"{each.tasks:,}",
        "STATE": lambda each: Text(each.state.value, STATE_STYLES[each.state]),
        "WHY": lambda each: each.reason or "not known yet",
        "SUCH AS": lambda each: job.task_name(each.first_index),
    }
    # Below the job's own id the rest of a task's is enough.
    short: Form[ReasonGroup] = Form("SUCH AS", lambda each: Text(one_line(_own_part(job, each.first_index))))
    columns = [
        Column(
            name,
            (Form(name, _text(cell)), *([short] if name == "SUCH AS" else [])),
            "right" if name == "TASKS" else "left",
            32 if name == "WHY" else 0,
        )
        for name, cell in cells.items()
    ]
    return FittedTable(job.reasons, columns, ("SUCH AS",))


def _own_part(job: JobInfo, index: int) -> str:
    return job.task_name(index).removeprefix(job.job_id)


def _steps(job: JobInfo) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("STEP", overflow="fold")
    table.add_column("AFTER", overflow="fold")
    table.add_column("TASKS", justify="right", no_wrap=True)
    table.add_column("ENDED", justify="right", no_wrap=True)
    table.add_column("STATES", overflow="fold")
    for step in job.steps:
        after = [*step.needs, *(f"{name} (any end)" for name in step.needs_any)]
        table.add_row(
            one_line(step.name),
            one_line(", ".join(after)),
            f"{step.tasks:,}",
            f"{100 * step.ended // step.tasks if step.tasks else 100} %",
            _states(step.counts),
        )
    return table


def _states(counts: Mapping[TaskState, int]) -> Text:
    told = Text()
    for state in TaskState:
        if count := counts.get(state, 0):
            told.append(", " if told.plain else "")
            told.append(f"{count:,} {state.value.lower()}", STATE_STYLES[state])
    return told
