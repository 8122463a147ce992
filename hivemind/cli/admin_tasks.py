"""`hivemind admin tasks`: tasks of all users, for operators. The pool keeps every look, as every act."""

from __future__ import annotations

import time
from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app, write_stdout
from hivemind.cli.connect import connect
from hivemind.cli.listing import check_looks, list_options, tell_tasks
from hivemind.cli.render.explain import explanation_view
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import jsonable, show, task_details
from hivemind.cli.run_inputs import labels_of
from hivemind.task_lists import task_filter
from nodepool.domain.safe_text import lines
from nodepool.domain.tasks.states import TaskState

_USUAL = ("task", "user", "name", "state", "node", "age", "reason")
_task_argument = click.argument("task_id", metavar="TASK")
_reason_option = click.option("--reason", required=True, help="Kept with the act.")


@click.group(invoke_without_command=True)
@click.option("--user", "username", default="", metavar="USER", help="Only tasks of USER.")
@click.option("--job", "job_id", default="", metavar="JOB", help="Only tasks of this job.")
@list_options
@json_option
@click.pass_context
def tasks(context: click.Context, /, **options: Any) -> None:
    """Tasks of all users, newest first; with a command below, one of them."""
    if context.invoked_subcommand is None:
        _list(context.ensure_object(App), **options)


def _list(
    app: App, *, limit: int, columns: tuple[str, ...] | None, quiet: bool, username: str, **asked: Any
) -> None:
    check_looks(columns, quiet=quiet)
    wanted = task_filter(
        labels=labels_of(asked["labels"]),
        states=tuple(TaskState(word) for word in asked["states"]),
        node_id=asked["node"],
        job_id=asked["job_id"],
        since=asked["since"] or 0.0,
        until=asked["until"] or 0.0,
    )
    with connect(app) as pool:
        found = list(pool.operator.tasks(wanted, username=username, limit=limit + 1 if limit else 0))
    shown = found[:limit] if limit else found
    tell_tasks(app, shown, columns or _USUAL, quiet=quiet, more=len(found) > len(shown))


@tasks.command("show")
@_task_argument
@json_option
@pass_app
def show_task(app: App, task_id: str) -> None:
    """All about a task but what it is given."""
    with connect(app) as pool:
        task = pool.operator.task(task_id)
    if app.json:
        app.answer(jsonable(task))
    else:
        show(task_details(task, time.time()))


@tasks.command()
@_task_argument
@json_option
@pass_app
def explain(app: App, task_id: str) -> None:
    """Why a task waits, and what would place it."""
    with connect(app) as pool:
        told = pool.operator.explain(task_id)
    if app.json:
        app.answer(jsonable(told))
    else:
        show(explanation_view(told))


@tasks.command()
@_task_argument
@_reason_option
@json_option
@pass_app
def logs(app: App, task_id: str, *, reason: str) -> None:
    """What a task printed; only where the pool's settings let operators read it (ADMIN_READS_LOGS)."""
    with connect(app) as pool:
        text = pool.operator.logs(task_id, reason)
    if app.json:
        app.answer({"task_id": task_id, "logs": text})
    else:
        # It is a stranger's: nothing of it is obeyed, not even its colours, and in a file neither.
        write_stdout(lines(text).encode())


@tasks.command()
@_task_argument
@_reason_option
@json_option
@pass_app
def stop(app: App, task_id: str, *, reason: str) -> None:
    """Stop a task of whoever it is."""
    with connect(app) as pool:
        message = pool.operator.stop(task_id, reason)
    if app.json:
        app.answer({"task_id": task_id, "message": message})
    else:
        app.notice(one_line(message))
