"""`hivemind job ls|status|watch|tasks|result|stop|resubmit`."""

from __future__ import annotations

import time
from itertools import islice

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import job_ids
from hivemind.cli.connect import connect
from hivemind.cli.moments import as_duration
from hivemind.cli.naming import one_job
from hivemind.cli.render.jobs import job_bar, job_details, job_json, job_line, jobs_table
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.task_list import USUAL, task_list
from hivemind.cli.render.tasks import count_text, jsonable, show
from hivemind.cli.resubmit import resubmit_job
from hivemind.errors import ExitCode
from hivemind.job_results import AT_ONCE, Fetch, fetch_all
from hivemind.jobs import JobInfo
from hivemind.zip_unpack import MAX_UNPACKED_BYTES
from nodepool.domain.tasks.states import TaskState

_job_argument = click.argument("job_id", metavar="JOB", shell_complete=job_ids)


@click.group()
def job() -> None:
    """Many tasks with one id: how they are, their results, to stop them, and once more."""


job.add_command(resubmit_job)


@job.command()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@pass_app
def ls(app: App, limit: int) -> None:
    """Your jobs, newest first."""
    with connect(app) as pool:
        found = list(islice(pool.jobs(), limit))
    if app.json:
        app.answer([job_json(each) for each in found])
    elif found:
        show(jobs_table(found, time.time()))
    else:
        app.notice("there are no jobs; `hivemind submit --array 0-9 …` makes one")


@job.command()
@_job_argument
@json_option
@pass_app
def status(app: App, job_id: str) -> None:
    """How many tasks are in which state, and why; CPT; when it may be done."""
    with connect(app) as pool:
        found = pool.job(one_job(pool, job_id))
    if app.json:
        app.answer(job_json(found))
    else:
        show(job_details(found, time.time()))


@job.command()
@_job_argument
@click.option("--timeout", callback=as_duration, metavar="TIME", help="Give up after so long: 90s, 10m, 2h.")
@json_option
@pass_app
def watch(app: App, job_id: str, timeout: float | None) -> int:
    """Wait until all tasks have ended, with a bar; in a pipe and with --json a line for each change.

    Exits with 0 when all succeeded, 1 when some did not, 130 when the job was stopped, 7 after --timeout.
    """
    last: JobInfo | None = None
    with connect(app) as pool, job_bar(shown=not app.json) as bar:
        for found in pool.watch_job(one_job(pool, job_id), timeout_seconds=timeout):
            is_news = last is None or found.counts != last.counts
            if bar is not None:
                bar(found)
            elif is_news and app.json:
                app.answer(job_json(found))
            elif is_news:
                app.notice(job_line(found, time.time()))
            last = found
    if last is not None and bar is not None:
        app.notice(job_line(last, time.time()))
    if last is None or last.succeeded == last.tasks:
        return ExitCode.OK
    # A failed step stops what comes after it: that is a failure, and nobody's stop.
    failed = last.counts.get(TaskState.FAILED) and not last.stop_requested
    stopped = last.counts.get(TaskState.STOPPED) and not failed
    return ExitCode.INTERRUPTED if stopped else ExitCode.FAILURE


@job.command()
@_job_argument
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in TaskState], case_sensitive=False),
    help="Only those; may be given several times.",
)
@click.option("--step", default="", help="Of a flow: only those of this step.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@json_option
@pass_app
def tasks(app: App, job_id: str, *, states: tuple[str, ...], step: str, limit: int) -> None:
    """A job's tasks, by their indices."""
    with connect(app) as pool:
        chosen = one_job(pool, job_id)
        found = list(islice(pool.job_tasks(chosen, *map(TaskState, states), step=step), limit))
    if app.json:
        app.answer([jsonable(task) for task in found])
    elif found:
        show(task_list(found, USUAL, time.time()))
    else:
        app.notice("there are no such tasks")


@job.command()
@_job_argument
@click.option(
    "--output",
    default="{task}",
    show_default=True,
    metavar="DIRECTORY",
    help="Where a task's files go, as out/{index}. What is there is not fetched again.",
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Keep only such files, as '*.csv'.")
@click.option(
    "--at-once", type=click.IntRange(1, 32), default=AT_ONCE, show_default=True, help="So many at once."
)
@click.option(
    "--max-gib",
    type=click.IntRange(min=1),
    default=MAX_UNPACKED_BYTES >> 30,
    show_default=True,
    help="Refuse a result that unpacks to more.",
)
@json_option
@pass_app
def result(app: App, job_id: str, *, output: str, only: tuple[str, ...], at_once: int, max_gib: int) -> int:
    """Fetch the files of all tasks that have ended; run it again for those that came later."""
    counts = dict.fromkeys(Fetch, 0)
    with connect(app) as pool:
        for each in fetch_all(
            pool, one_job(pool, job_id), output, only=only, at_once=at_once, max_unpacked_bytes=max_gib << 30
        ):
            counts[each.outcome] += 1
            if app.json:
                app.answer({**jsonable(each), "path": str(each.path)})
            elif each.problem:
                app.notice(one_line(f"{each.task_id}: {each.problem}"))
    app.notice(
        f"{count_text(counts[Fetch.FETCHED], 'result')} fetched, {counts[Fetch.THERE]} there already, "
        f"{counts[Fetch.NOTHING]} without files, {counts[Fetch.FAILED]} failed"
    )
    return ExitCode.FAILURE if counts[Fetch.FAILED] else ExitCode.OK


@job.command()
@_job_argument
@json_option
@pass_app
def stop(app: App, job_id: str) -> None:
    """Stop all tasks of a job that have not ended."""
    with connect(app) as pool:
        job_id = one_job(pool, job_id)
        stopped = pool.stop_job(job_id)
    if app.json:
        app.answer({"job_id": job_id, "stopped": stopped})
    else:
        app.notice(f"{count_text(stopped, 'task')} of {one_line(job_id)} had not ended")
