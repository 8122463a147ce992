"""`hivemind status`, `logs`, `stop`, `rm`. Tasks are named as `naming.py` says."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app, write_stdout
from hivemind.cli.completing import task_ids
from hivemind.cli.connect import connect
from hivemind.cli.follow import follow
from hivemind.cli.naming import (
    FINISHED,
    UNFINISHED,
    check_named,
    chosen,
    each_of,
    is_one,
    one_task,
    takes_names,
)
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import count_text, jsonable, show, task_details
from hivemind.cli.render.terminal import OutputFilter
from hivemind.errors import ConflictError, ExitCode, MissingError
from hivemind.models import TaskInfo, exit_code_of
from hivemind.sdk import NodePoolClient
from nodepool.domain.tasks import exit_codes


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@json_option
@pass_app
def status(app: App, task_id: str) -> None:
    """All about one task. The beginning of its id is enough, where only one begins so."""
    with connect(app) as pool:
        task = pool.status(one_task(pool, task_id))
    if app.json:
        app.answer(jsonable(task))
    else:
        show(task_details(task, time.time()))


@click.command()
@takes_names()
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the task has ended.")
@click.option("--exit-status", is_flag=True, help="With --follow: exit with the task's exit code.")
@json_option
@pass_app
def logs(
    app: App, task_ids: tuple[str, ...], labels: tuple[str, ...], *, follows: bool, exit_status: bool
) -> int:
    """What tasks printed, on stdout. TASK is an id, or a beginning that only one id has.

    Of several tasks one comes after the other, each under its id; with --follow, too.
    """
    if exit_status and not follows:
        raise click.UsageError("--exit-status goes with --follow; see also `hivemind wait`")
    with connect(app) as pool:
        found = chosen(pool, task_ids, labels).tasks
        if follows:
            return _follow(app, pool, found, exit_status=exit_status)
        if is_one(task_ids, labels):
            _tell_logs(app, {"task_id": found[0], "logs": pool.logs(found[0])})
            return ExitCode.OK
        return _logs_of_each(app, pool, found)


def _logs_of_each(app: App, pool: NodePoolClient, found: Sequence[str]) -> int:
    def one(task_id: str) -> Mapping[str, Any]:
        told = {"task_id": task_id, "logs": pool.logs(task_id)}
        if not app.json:
            _heading(task_id)
            _tell_logs(app, told)
        return told

    answers, code = each_of(app, found, one)
    if app.json:
        app.answer(answers)
    return code


def _tell_logs(app: App, told: dict[str, str]) -> None:
    if app.json:
        app.answer(told)
        return
    data = told["logs"].encode()
    if sys.stdout.isatty():
        screen = OutputFilter()
        data = screen.feed(data) + screen.plain()
    write_stdout(data)


def _heading(task_id: str) -> None:
    """As tail(1) has it."""
    write_stdout(f"==> {one_line(task_id)} <==\n".encode())


def _follow(app: App, pool: NodePoolClient, found: Sequence[str], *, exit_status: bool) -> int:
    """The pool keeps all output: what the second prints meanwhile is shown when the first has ended."""
    ended: list[TaskInfo] = []
    for task_id in found:
        if len(found) > 1 and not app.json:
            _heading(task_id)
        task = follow(app, pool, task_id)
        if task is None:
            return ExitCode.INTERRUPTED
        ended.append(task)
    return (
        exit_codes.worst((task.state, exit_code_of(task)) for task in ended) if exit_status else ExitCode.OK
    )


@click.command()
@takes_names(jobs=True)
@json_option
@pass_app
def stop(app: App, task_ids: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Stop tasks, and jobs with all of their tasks; what there is of their results can still be fetched.

    ID is that of a task or a job, or a beginning that only one has. --label stops those that have not ended.
    """
    with connect(app) as pool:
        found = chosen(pool, task_ids, labels, states=UNFINISHED, jobs=True)

        def one(named: str) -> Mapping[str, Any]:
            told = _stop_job(pool, named) if named in found.jobs else _stop_task(pool, named)
            if not app.json:
                app.notice(one_line(told["message"]))
            return told

        if is_one(task_ids, labels):
            answer = one((found.tasks or found.jobs)[0])
            if app.json:
                app.answer(answer)
            return ExitCode.OK
        answers, code = each_of(app, [*found.tasks, *found.jobs], one)
    if app.json:
        app.answer(answers)
    return code


def _stop_task(pool: NodePoolClient, task_id: str) -> dict[str, Any]:
    return {"task_id": task_id, "message": pool.stop(task_id) or f"{task_id} is being stopped"}


def _stop_job(pool: NodePoolClient, job_id: str) -> dict[str, Any]:
    stopped = pool.stop_job(job_id)
    message = f"{count_text(stopped, 'task')} of {job_id} had not ended"
    return {"job_id": job_id, "stopped": stopped, "message": message}


@click.command()
@takes_names()
@json_option
@pass_app
def rm(app: App, task_ids: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Delete tasks that have ended, with their packages, results and output; what they cost stays in your
    ledger. Those that cannot be deleted are named, and the others go."""
    code = ExitCode.OK
    answers = []
    with connect(app) as pool:
        check_named(task_ids, labels)
        named = task_ids or chosen(pool, (), labels, states=FINISHED).tasks
        for name in dict.fromkeys(named):
            task_id = name
            try:
                task_id = one_task(pool, name)
                message, deleted = pool.delete(task_id), True
            except (MissingError, ConflictError) as error:
                message, deleted, code = str(error), False, error.exit_code
            answers.append({"task_id": task_id, "deleted": deleted, "message": message})
            if not app.json:
                app.notice(one_line(message))
    if app.json:
        app.answer(answers)
    return code
