"""`hivemind run`: a flow from a file, sent as one job, or shown without being sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hivemind.array_upload import new_job_id
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect, names_it
from hivemind.cli.render.flows import QuotedStep, flow_json, flow_view
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable, show, transfer_bar
from hivemind.cli.run_inputs import notify_option
from hivemind.errors import ExitCode, MissingError, RefusedError
from hivemind.flows import TaskFlow, read_flow
from hivemind.sdk import NodePoolClient
from hivemind.zip_pack import open_package
from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.notifications.targets import check_are_set


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=Path("flow.toml"))
@click.option(
    "--dry-run",
    "is_dry",
    is_flag=True,
    help="Show the steps, where each would run now and what all of it can cost; send nothing.",
)
@click.option("--job-id", help="Your own id for the flow; sent again it changes nothing.")
@click.option("--max-cpt", type=click.IntRange(min=1), help="Refuse a flow that could cost more.")
@notify_option
@json_option
@pass_app
def run(
    app: App, file: Path, *, is_dry: bool, job_id: str | None, max_cpt: int | None, notify: tuple[str, ...]
) -> int:
    """Send the steps of FILE [default: flow.toml] as one job, which the pool runs: all are accepted or none.

    `hivemind job status|watch|result|stop JOB` shows and ends it.
    """
    flow = read_flow(file, app.environment)
    flow = replace(flow, max_cpt=max_cpt or flow.max_cpt, notify=notify or flow.notify)
    flow.check()
    if is_dry:
        _dry_run(app, flow)
        return ExitCode.OK
    chosen = job_id or new_job_id()
    with connect(app) as pool:
        words = f"send {chosen} again with `--job-id {chosen}`, which never makes two of it"
        with names_it(app, words), transfer_bar("upload", shown=not app.json) as progress:
            sent = pool.submit_flow(flow, job_id=chosen, progress=progress)
    for warning in sent.warnings:
        app.notice(f"warning: {warning}")
    if app.json:
        app.answer(jsonable(sent))
        return ExitCode.OK
    most = f", at most {sent.most_cpt:,} CPT" if sent.most_cpt else ""
    app.notice(
        f"· {count_text(sent.tasks, 'task')}: accepted before; nothing was changed"
        if sent.repeated
        else f"· sent {bytes_text(sent.package_bytes)} for {count_text(len(flow.steps), 'step')}, "
        f"{count_text(sent.tasks, 'task')}{most}, of which each task holds its own when it is placed"
    )
    app.say(sent.job_id)
    return ExitCode.OK


def _dry_run(app: App, flow: TaskFlow) -> None:
    with connect(app) as pool:
        _check_told(pool, flow)
        quoted = [_quoted(pool, flow, number) for number in range(len(flow.steps))]
    most = sum(step.most_cpt for step in quoted)
    if flow.max_cpt and most > flow.max_cpt:
        raise RefusedError(f"this flow can cost {most:,} CPT, over its max_cpt of {flow.max_cpt:,}")
    by_name = {each.step.name: each for each in quoted}
    in_order = [by_name[step.name] for step in flow.in_order()]
    if app.json:
        told: dict[str, Any] = flow_json(flow, in_order)
        app.answer({"dry_run": True, "accepted": True, **told})
        return
    show(flow_view(flow, in_order))
    app.notice("dry run: nothing was sent")


def _check_told(pool: NodePoolClient, flow: TaskFlow) -> None:
    """Raises MissingError and RefusedError, as the pool does for a flow that is sent."""
    targets = pool.notify_targets() if flow.notify else ()
    unconfirmed = [each.name for each in targets if not each.confirmed]
    try:
        check_are_set(flow.notify, [each.name for each in targets], unconfirmed)
    except NotFoundError as error:
        raise MissingError(str(error)) from error
    except InvalidInputError as error:
        raise RefusedError(str(error)) from error


def _quoted(pool: NodePoolClient, flow: TaskFlow, number: int) -> QuotedStep:
    step = flow.steps[number]
    package = open_package(step.source, include=step.include)
    try:
        sha256 = package.sha256()
    finally:
        package.close()
    told = pool.quote(
        step.task,
        package_bytes=package.size_bytes,
        package_sha256=sha256,
        unpacked_bytes=package.unpacked_bytes,
        package_files=package.files,
        tasks=len(step.sweep) if step.sweep else 0,
    )
    return QuotedStep(step=step, told=told, package_bytes=package.size_bytes)
