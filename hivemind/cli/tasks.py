"""`hivemind ls`, `status`, `logs`, `stop`, `rm`, `result`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from hivemind.cli.app import App, json_option, pass_app, write_stdout
from hivemind.cli.completing import task_ids
from hivemind.cli.connect import connect
from hivemind.cli.follow import follow
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable, show, task_details, tasks_table
from hivemind.cli.render.terminal import OutputFilter
from hivemind.cli.submit import fetch, result_json
from hivemind.errors import ConflictError, ExitCode, MissingError, RefusedError
from hivemind.zip_unpack import MAX_UNPACKED_BYTES
from nodepool.domain.errors import InvalidInputError
from nodepool.domain.ids import check_task_id

_STATUS_WORDS = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "STOPPED")


@click.command()
@click.option("--status", type=click.Choice(_STATUS_WORDS, case_sensitive=False), help="Only those.")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="At most so many [default: all].")
@json_option
@pass_app
def ls(app: App, *, status: str | None, limit: int) -> None:
    """Your tasks, newest first."""
    with connect(app) as pool:
        tasks = [task for task in pool.list() if status is None or task.status == status]
    tasks = tasks[:limit] if limit else tasks
    if app.json:
        app.answer([jsonable(task) for task in tasks])
    elif tasks:
        show(tasks_table(tasks, time.time()))
    else:
        app.notice("there are no tasks" + (f" with status {status}" if status else ""))


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@json_option
@pass_app
def status(app: App, task_id: str) -> None:
    """All about one task."""
    with connect(app) as pool:
        task = pool.status(task_id)
    if app.json:
        app.answer(jsonable(task))
    else:
        show(task_details(task, time.time()))


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the task has ended.")
@json_option
@pass_app
def logs(app: App, task_id: str, *, follows: bool) -> int:
    """A task's output, on stdout."""
    with connect(app) as pool:
        if follows:
            return ExitCode.INTERRUPTED if follow(app, pool, task_id) is None else ExitCode.OK
        text = pool.logs(task_id)
    if app.json:
        app.answer({"task_id": task_id, "logs": text})
    else:
        data = text.encode()
        if sys.stdout.isatty():
            screen = OutputFilter()
            data = screen.feed(data) + screen.plain()
        write_stdout(data)
    return ExitCode.OK


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@json_option
@pass_app
def stop(app: App, task_id: str) -> None:
    """Stop a task; what there is of its result can still be fetched."""
    with connect(app) as pool:
        message = pool.stop(task_id)
    if app.json:
        app.answer({"task_id": task_id, "message": message})
    else:
        app.notice(one_line(message) or f"{task_id} is being stopped")


@click.command()
@click.argument("task_ids", metavar="TASK...", nargs=-1, required=True, shell_complete=task_ids)
@json_option
@pass_app
def rm(app: App, task_ids: tuple[str, ...]) -> int:
    """Delete tasks that have ended, with their packages, results and output; what they cost stays in your
    ledger. Those that cannot be deleted are named, and the others go."""
    code = ExitCode.OK
    answers = []
    with connect(app) as pool:
        for task_id in dict.fromkeys(task_ids):
            try:
                message, deleted = pool.delete(task_id), True
            except (MissingError, ConflictError) as error:
                message, deleted, code = str(error), False, error.exit_code
            answers.append({"task_id": task_id, "deleted": deleted, "message": message})
            if not app.json:
                app.notice(one_line(message))
    if app.json:
        app.answer(answers)
    return code


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Unpack into this directory [default: named as the task].",
)
@click.option("--zip", "zip_file", type=click.Path(path_type=Path), help="Keep the ZIP as this file instead.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option(
    "--max-gib",
    type=click.IntRange(min=1),
    default=MAX_UNPACKED_BYTES >> 30,
    show_default=True,
    help="Refuse a result that unpacks to more.",
)
@json_option
@pass_app
def result(
    app: App, task_id: str, *, output: Path | None, zip_file: Path | None, force: bool, max_gib: int
) -> None:
    """Fetch a task's files."""
    if output and zip_file:
        raise click.UsageError("--output and --zip: choose one")
    try:
        # It may become the name of a directory.
        check_task_id(task_id)
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error
    with connect(app) as pool:
        destination = zip_file or output or Path(task_id)
        fetched = fetch(
            app,
            pool,
            task_id,
            destination,
            unpack=zip_file is None,
            force=force,
            max_unpacked_bytes=max_gib << 30,
        )
    if app.json:
        app.answer(result_json(fetched))
    else:
        what = (
            count_text(len(fetched.files), "file") if zip_file is None else bytes_text(fetched.result_bytes)
        )
        app.notice(f"{what} in {destination}")
