"""`hivemind wait`: until tasks and jobs have ended, with the worst of their exit codes."""

from __future__ import annotations

from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect
from hivemind.cli.follow import state_line
from hivemind.cli.moments import as_duration
from hivemind.cli.naming import chosen, takes_names
from hivemind.cli.render.jobs import job_json, job_line
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import Spinner, count_text, jsonable
from hivemind.errors import ExitCode, NotYetError
from hivemind.jobs import JobInfo
from hivemind.models import TaskInfo, exit_code_of
from hivemind.sdk import NodePoolClient
from hivemind.selectors import NamedIds
from hivemind.waiting import MOST_AT_ONCE
from nodepool.domain.tasks import exit_codes
from nodepool.domain.tasks.states import TaskState


@click.command()
@takes_names(jobs=True)
@click.option("--any", "first", is_flag=True, help="Until the first of them has ended, with its exit code.")
@click.option("--timeout", callback=as_duration, metavar="TIME", help="Give up after so long: 90s, 10m, 2h.")
@json_option
@pass_app
def wait(
    app: App, task_ids: tuple[str, ...], labels: tuple[str, ...], *, first: bool, timeout: float | None
) -> int:
    """Wait until tasks and jobs have ended; with --json a line for each that has.

    ID is that of a task or a job, or a beginning that only one has. Exits with 0 when all succeeded; else
    with the largest exit code of those that failed (128+n for signal n, 1 without a code), or 130 when some
    were stopped and none failed. 124: not all had ended in time.
    """
    with connect(app) as pool:
        found = chosen(pool, task_ids, labels, jobs=True)
        if first and len(found) > MOST_AT_ONCE:
            raise click.UsageError(f"--any waits for at most {MOST_AT_ONCE:,} tasks and jobs")
        try:
            return _to_the_end(app, pool, found, first=first, timeout=timeout)
        except NotYetError as error:
            app.notice(one_line(str(error)))
            if app.json:
                app.answer(
                    {"event": "timeout", "message": str(error), "exit_code": int(ExitCode.TIME_IS_OVER)}
                )
            return ExitCode.TIME_IS_OVER


def _to_the_end(
    app: App, pool: NodePoolClient, found: NamedIds, *, first: bool, timeout: float | None
) -> int:
    ends: list[tuple[TaskState, int]] = []
    spinner = Spinner()
    try:
        for each in pool.ends(*found.tasks, jobs=found.jobs, timeout_seconds=timeout):
            end = end_of(each)
            ends.append(end)
            spinner.hide()
            _tell(app, each, end[1])
            if first:
                break
            if not app.json and len(ends) < len(found):
                spinner.show(f"waiting for {count_text(len(found) - len(ends), 'other')}")
    finally:
        spinner.hide()
    return exit_codes.worst(ends)


def end_of(each: TaskInfo | JobInfo) -> tuple[TaskState, int]:
    """How it ended, and what a shell would say of that. A job failed where a task of it did."""
    if isinstance(each, TaskInfo):
        return each.state, exit_code_of(each)
    if each.counts.get(TaskState.FAILED):
        return TaskState.FAILED, each.worst_exit_code or exit_codes.FAILED
    if each.counts.get(TaskState.STOPPED):
        return TaskState.STOPPED, exit_codes.STOPPED
    return TaskState.SUCCEEDED, 0


def _tell(app: App, each: TaskInfo | JobInfo, code: int) -> None:
    if app.json:
        told: dict[str, Any] = {"event": "ended", "exit_code": code}
        what = {"task": jsonable(each)} if isinstance(each, TaskInfo) else {"job": job_json(each)}
        app.answer({**told, **what})
    elif isinstance(each, TaskInfo):
        app.notice(one_line(f"· {each.task_id} {state_line(each)}"))
    else:
        app.notice(one_line(f"· {each.job_id}: {job_line(each, 0.0)}"))
