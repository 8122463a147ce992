"""`hivemind submit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import image_names, region_words, task_and_job_ids
from hivemind.cli.connect import connect, names_it
from hivemind.cli.explain import dry_run
from hivemind.cli.follow import follow
from hivemind.cli.project_defaults import take_defaults
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable, transfer_bar
from hivemind.cli.retrying import check_retry_options, retry_options
from hivemind.cli.run_inputs import inputs_of, memory_option, takes_inputs
from hivemind.cli.sweep import SweepCommand, submit_sweep, sweep_options, take_sweep
from hivemind.errors import ExitCode
from hivemind.models import ResultInfo, exit_code_of
from hivemind.needs import TaskNeeds
from hivemind.sdk import NodePoolClient
from hivemind.uploading import new_task_id
from hivemind.zip_unpack import MAX_UNPACKED_BYTES, check_destination
from nodepool.domain.tasks.states import DEFAULT_PRIORITY, MAX_PRIORITY, LocationMode
from nodepool.domain.trust.tiers import TIERS
from nodepool.domain.trust.voting import MAX_REPLICAS


def ids_of(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """Ids with commas between, of an option that may be given several times."""
    return tuple(one for word in words for one in word.replace(",", " ").split())


@click.command(cls=SweepCommand)
@click.argument("path", type=click.Path(path_type=Path), is_eager=True, callback=take_defaults)
@takes_inputs
@memory_option
@click.option("--memory-gb", type=int, default=0, help="The same in GiB.")
@click.option("--cpu-score", type=int, default=0, help="CPU points; 1000 is one core of the reference.")
@click.option("--gpu-score", type=int, default=0, help="GPU points.")
@click.option("--gpu-memory-gb", type=int, default=0, help="GPU memory, GiB.")
@click.option(
    "--location",
    default="",
    shell_complete=region_words,
    help="Region, such as asia or europe [default: any].",
)
@click.option(
    "--location-mode",
    type=click.Choice([mode.value for mode in LocationMode]),
    help="prefer: after a while the nearest other region will do [default: strict].",
)
@click.option("--gpu-name", default="", help="A GPU of this name only.")
@click.option(
    "--image",
    default="",
    shell_complete=image_names,
    help="Container image, one that the pool allows.",
)
@click.option("--network", is_flag=True, help="The task needs the network, where the pool allows it.")
@click.option("--max-minutes", type=int, default=0, help="Longest run [default: the pool's].")
@click.option(
    "--priority",
    type=click.IntRange(0, MAX_PRIORITY),
    help=f"0-{MAX_PRIORITY}, {MAX_PRIORITY} first [default: {DEFAULT_PRIORITY}].",
)
@click.option(
    "--min-trust",
    type=click.Choice([tier.value for tier in TIERS]),
    help="No node that is trusted less [default: any that your credit opens].",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, MAX_REPLICAS),
    default=1,
    help=f"Run on nodes of so many owners (1-{MAX_REPLICAS}); what most agree on is the result.",
)
@click.option(
    "--compare",
    "compare_outputs",
    multiple=True,
    metavar="PATTERN",
    help="A file of the result, such as 'out/*.csv', that must be the same in every run; "
    "may be given several times [default: all files].",
)
@click.option(
    "--take-pending",
    is_flag=True,
    help="Take a result that the pool checks at once, unchecked [default: wait until it is checked].",
)
@click.option(
    "--exclusive",
    is_flag=True,
    help="Never run twice at one moment: a node that is cut off ends it soon [default: it goes on].",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="In a sandbox of its own, which is not used again [default: your next task may run in it].",
)
@retry_options
@click.option(
    "--after",
    multiple=True,
    callback=ids_of,
    metavar="ID[,ID]",
    shell_complete=task_and_job_ids,
    help="Wait for the success of these tasks and jobs; stopped where it cannot come any more.",
)
@click.option(
    "--after-any",
    multiple=True,
    callback=ids_of,
    metavar="ID[,ID]",
    shell_complete=task_and_job_ids,
    help="Wait until these tasks and jobs have ended, however they do.",
)
@click.option(
    "--dry-run", "is_dry", is_flag=True, help="Say where it would run now and its price; send nothing."
)
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Send files of PATH that are left out otherwise, such as '.env.test' or 'certs/*.pem'; may be given "
    "several times.",
)
@sweep_options
@click.option("--task-id", help="Your own id; a repeated upload with the same id changes nothing.")
@click.option(
    "-f", "--follow", "follows", is_flag=True, help="Show the output; exit with the task's exit code."
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="With --follow: unpack the result into this directory."
)
@click.option("--force", is_flag=True, help="With --output: overwrite files that are there.")
@click.option(
    "--stop-on-interrupt", is_flag=True, help="With --follow: Ctrl-C stops the task instead of leaving it."
)
@json_option
@pass_app
def submit(
    app: App,
    /,
    path: Path,
    *,
    task_id: str | None,
    is_dry: bool,
    follows: bool,
    output: Path | None,
    force: bool,
    stop_on_interrupt: bool,
    **needs: Any,
) -> int:
    """Send PATH (a directory, a ZIP, or one .py file) as a task.

    What comes after -- is given to what runs, word by word (at most 1,024, and 32 KiB with --env).

    Of a directory everything is sent but what .hivemindignore names (gitignore's rules), .git,
    virtual environments, caches, links and what may be secret. run.sh or main.py is what runs. hivemind.toml
    in PATH, or above it in its Git repository, has options that need not be given each time.
    """
    _check_flags(follows=follows, is_dry=is_dry, shows=bool(output or stop_on_interrupt))
    if output:
        check_destination(output, overwrite=force)
    array, include = take_sweep(needs), needs.pop("include")
    options = _needs_of(app, needs)
    if array.sweep:
        is_one = bool(follows or task_id)
        return submit_sweep(app, path, array.sweep, options, array, include, is_dry=is_dry, is_one=is_one)
    if is_dry:
        dry_run(app, path, options, include)
        return ExitCode.OK
    with connect(app) as pool:
        chosen = task_id or new_task_id()
        words = f"send {chosen} again with `--task-id {chosen}`, which never makes two of it"
        with names_it(app, words), transfer_bar("upload", shown=not app.json) as progress:
            sent = pool.submit(path, options, task_id=chosen, progress=progress, include=include)
        for warning in sent.warnings:
            app.notice(f"warning: {warning}")
        if not follows:
            if app.json:
                app.answer(jsonable(sent))
            else:
                app.say(sent.task_id)
            return ExitCode.OK
        if app.json:
            app.answer({"event": "submitted", **jsonable(sent)})
        else:
            app.notice(f"· sent {bytes_text(sent.package_bytes)} as {sent.task_id}")
        return _to_the_end(app, pool, sent.task_id, output, force=force, stops=stop_on_interrupt)


def _needs_of(app: App, options: dict[str, Any]) -> TaskNeeds:
    check_retry_options(options)
    return TaskNeeds(**inputs_of(app, {name: value for name, value in options.items() if value is not None}))


def _check_flags(*, follows: bool, is_dry: bool, shows: bool) -> None:
    if shows and not follows:
        raise click.UsageError(
            "--output and --stop-on-interrupt go with --follow; see also `hivemind result`"
        )
    if is_dry and follows:
        raise click.UsageError("--dry-run sends nothing that --follow could show")


def _to_the_end(
    app: App, pool: NodePoolClient, task_id: str, output: Path | None, *, force: bool, stops: bool
) -> int:
    task = follow(app, pool, task_id, stop_on_interrupt=stops)
    if task is None:
        return ExitCode.INTERRUPTED
    code = exit_code_of(task)
    fetched: ResultInfo | None = None
    if output and task.has_result:
        fetched = fetch(app, pool, task_id, output, unpack=True, force=force)
        app.notice(f"· {count_text(len(fetched.files), 'file')} in {output}")
    elif output:
        app.notice("· there is no result to fetch")
    if app.json:
        app.answer(
            {
                "event": "end",
                "task": jsonable(task),
                "exit_code": code,
                "result": result_json(fetched) if fetched else None,
            }
        )
    return code


def fetch(
    app: App,
    pool: NodePoolClient,
    task_id: str,
    destination: Path,
    *,
    unpack: bool,
    force: bool,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
) -> ResultInfo:
    with transfer_bar("download", shown=not app.json) as progress:
        fetched = pool.result(
            task_id,
            destination,
            unpack=unpack,
            overwrite=force,
            max_unpacked_bytes=max_unpacked_bytes,
            progress=progress,
        )
    for warning in fetched.warnings:
        app.notice(f"warning: {warning}")
    return fetched


def result_json(fetched: ResultInfo) -> dict[str, Any]:
    return {**jsonable(fetched), "path": str(fetched.path)}
