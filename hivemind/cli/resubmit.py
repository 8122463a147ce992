"""`hivemind resubmit` and `hivemind job resubmit`: what has ended, once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from hivemind import sweeps
from hivemind.array_upload import new_job_id
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import image_names, job_ids, region_words, target_names
from hivemind.cli.connect import connect, names_it
from hivemind.cli.naming import FINISHED, chosen, is_one, one_job, takes_names
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import count_text, jsonable
from hivemind.cli.retrying import retry_options
from hivemind.cli.run_inputs import memory_option
from hivemind.errors import ClientError, ExitCode, NotLoggedInError, UnreachableError, UnsupportedError
from hivemind.uploading import new_task_id
from nodepool.domain.tasks.states import MAX_PRIORITY, TaskState

_Command = TypeVar("_Command", bound=Callable[..., Any])
# These concern the pool and not the one task.
_OF_THE_POOL = (NotLoggedInError, UnreachableError, UnsupportedError)


def _or_as_it_was(
    _context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...] | None:
    return names or None


def _changes(command: _Command) -> _Command:
    """Options of `submit` that say what is to be different. Not said: as it was."""
    for option in reversed(
        (
            memory_option,
            click.option("--memory-gb", type=click.IntRange(min=0), help="The same in GiB."),
            click.option("--cpu-score", type=click.IntRange(min=0), help="CPU points."),
            click.option("--gpu-score", type=click.IntRange(min=0), help="GPU points."),
            click.option("--gpu-memory-gb", type=click.IntRange(min=0), help="GPU memory, GiB."),
            click.option("--location", shell_complete=region_words, help="Region."),
            click.option("--image", shell_complete=image_names, help="Container image."),
            click.option("--max-minutes", type=click.IntRange(min=1), help="Longest run."),
            click.option("--priority", type=click.IntRange(0, MAX_PRIORITY), help="9 first."),
            click.option("--name", help="What you call it."),
            click.option(
                "--notify",
                multiple=True,
                metavar="NAME",
                shell_complete=target_names,
                callback=_or_as_it_was,
                help="Who is told of its end; may be given several times.",
            ),
            retry_options,
        )
    ):
        command = option(command)
    return command


@click.command()
@takes_names()
@_changes
@click.option("--task-id", help="Your own id for the new task; sent again it changes nothing.")
@json_option
@pass_app
def resubmit(
    app: App,
    /,
    task_ids: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    task_id: str | None,
    **options: Any,
) -> int:
    """Run tasks that have ended once more, with the package that the pool has and all that they were given.

    Each is a new task, whose id is printed. Options say what is to be different. One of a job gets a job of
    its own and keeps its index. Those that cannot be are named, and the others are sent.
    """
    alone = is_one(task_ids, labels)
    if task_id and not alone:
        raise click.UsageError("--task-id is for one task")
    changes = _said(options)
    code, answers = ExitCode.OK, []
    with connect(app) as pool:
        for old in chosen(pool, task_ids, labels, states=FINISHED).tasks:
            new_id = task_id or new_task_id()
            try:
                with names_it(app, _same_again(new_id, "--task-id")):
                    sent = pool.resubmit(old, new_task_id=new_id, **changes)
            except _OF_THE_POOL:
                raise
            except ClientError as error:
                if alone:
                    raise
                app.notice(one_line(f"{old}: {error}"))
                answers.append({"resubmit_of": old, "error": str(error)})
                code = error.exit_code
                continue
            answers.append({"resubmit_of": old, **jsonable(sent)})
            if not app.json:
                app.say(sent.task_id)
    if app.json:
        app.answer(answers[0] if alone else answers)
    return code


@click.command("resubmit")
@click.argument("job_id", metavar="JOB", shell_complete=job_ids)
@click.option("--failed", is_flag=True, help="Tasks that failed.")
@click.option("--stopped", is_flag=True, help="Tasks that were stopped.")
@click.option("--all", "everything", is_flag=True, help="All tasks that have ended.")
@click.option("--index", "indices", metavar="RANGE", help="Only these, such as 3 or 1,2,5-9.")
@_changes
@click.option("--new-job-id", "new_id", help="Your own id for the new job; sent again it changes nothing.")
@click.option("--max-cpt", type=click.IntRange(min=1), help="Refuse what could cost more.")
@json_option
@pass_app
def resubmit_job(
    app: App,
    /,
    job_id: str,
    *,
    failed: bool,
    stopped: bool,
    everything: bool,
    indices: str | None,
    new_id: str | None,
    max_cpt: int | None,
    **options: Any,
) -> int:
    """Run tasks of a job once more: a new job, whose tasks keep their indices and what they were given.

    All are accepted or none. `job result NEW --output out/{index}` puts their files beside the others'.
    """
    states = [TaskState.FAILED] * failed + [TaskState.STOPPED] * stopped
    if everything and states:
        raise click.UsageError("--all has those that failed and those that were stopped: take one of them")
    if not (states or everything or indices):
        raise click.UsageError("say which tasks: --failed, --stopped, --all or --index RANGE")
    new_job = new_id or new_job_id()
    only = [index for index, _ in sweeps.of_range(indices).rows] if indices else []
    with connect(app) as pool, names_it(app, _same_again(new_job, "--new-job-id")):
        sent = pool.resubmit_job(
            one_job(pool, job_id),
            *states,
            indices=only,
            new_job_id=new_job,
            max_cpt=max_cpt or 0,
            **_said(options),
        )
    if app.json:
        app.answer(jsonable(sent))
        return ExitCode.OK
    app.notice(
        f"· {count_text(sent.tasks, 'task')} of {one_line(job_id)} again, at most {sent.most_cpt:,} CPT, of "
        "which each holds its own when it is placed"
    )
    app.say(sent.job_id)
    return ExitCode.OK


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _same_again(new_id: str, option: str) -> str:
    return f"do it again with `{option} {new_id}`, which never makes two of it"
