"""How a job looks to people, and its JSON shape.

Knows rich; knows neither the connection nor click.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import STATE_STYLES, count_text, duration_text, jsonable, labels_text
from hivemind.jobs import JobInfo
from nodepool.domain.tasks.states import TaskState


def job_json(job: JobInfo) -> dict[str, Any]:
    told: dict[str, Any] = jsonable(job)
    told["counts"], told["ended"] = _by_word(job.counts), job.ended
    for step, shown in zip(job.steps, told["steps"], strict=True):
        shown["counts"], shown["ended"] = _by_word(step.counts), step.ended
    return told


def _by_word(counts: Mapping[TaskState, int]) -> dict[str, int]:
    return {state.value: count for state, count in counts.items()}


def jobs_table(jobs: Sequence[JobInfo], now: float) -> PlainTable:
    named = any(job.name for job in jobs)
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("JOB", *(["NAME"] if named else []), "TASKS", "ENDED", "AGE", "STATES"):
        table.add_column(title, justify="right" if title in ("TASKS", "ENDED") else "left", overflow="fold")
    for job in jobs:
        table.add_row(
            one_line(job.job_id),
            *([one_line(job.name)] if named else []),
            f"{job.tasks:,}",
            f"{100 * job.ended // job.tasks if job.tasks else 100} %",
            duration_text(now - job.created_at) if job.created_at else "",
            _states(job.counts),
        )
    return table


def job_line(job: JobInfo, now: float) -> str:
    """Its progress, on one line."""
    left = job.seconds_left(now)
    about = f", about {duration_text(left)} left at this pace" if left is not None else ""
    return f"{job.ended:,} of {count_text(job.tasks, 'task')} ended: {_states(job.counts).plain}{about}"


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


def _reasons(job: JobInfo) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("TASKS", justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    table.add_column("WHY", overflow="fold")
    table.add_column("SUCH AS", no_wrap=True)
    for each in job.reasons:
        table.add_row(
            f"{each.tasks:,}",
            Text(each.state.value, STATE_STYLES[each.state]),
            one_line(each.reason) or "not known yet",
            one_line(job.task_name(each.first_index)),
        )
    return table


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
