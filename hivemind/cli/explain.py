"""`hivemind explain`, and the dry run of `hivemind submit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import task_ids
from hivemind.cli.connect import connect
from hivemind.cli.naming import one_task
from hivemind.cli.render.explain import explanation_view, quote_view
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable, show
from hivemind.needs import TaskNeeds
from hivemind.zip_pack import open_package


@click.command()
@click.argument("task_id", metavar="TASK", shell_complete=task_ids)
@json_option
@pass_app
def explain(app: App, task_id: str) -> None:
    """Why a task waits, failed or was stopped; what would place it, its place in the queue and its price."""
    with connect(app) as pool:
        told = pool.explain(one_task(pool, task_id))
    if app.json:
        app.answer(jsonable(told))
        return
    show(explanation_view(told))
    if not told.complete:
        app.notice("note: this pool is an older one and says no more")


def dry_run(
    app: App,
    path: Path,
    needs: TaskNeeds,
    include: Sequence[str] = (),
    *,
    tasks: int = 0,
    max_cpt: int = 0,
) -> None:
    """Pack PATH, ask the pool where it would run and what it would cost, and send nothing else.

    `tasks`: as an array of so many. Raises what a submit would raise.
    """
    package = open_package(path, include=include)
    try:
        sha256 = package.sha256()
    finally:
        package.close()
    with connect(app) as pool:
        told = pool.quote(
            needs,
            package_bytes=package.size_bytes,
            package_sha256=sha256,
            unpacked_bytes=package.unpacked_bytes,
            package_files=package.files,
            tasks=tasks,
            max_cpt=max_cpt,
        )
    for warning in package.warnings:
        app.notice(f"warning: {warning}")
    if app.json:
        packed = {
            "path": str(path),
            "package_bytes": package.size_bytes,
            "unpacked_bytes": package.unpacked_bytes,
            "files": package.files,
            "entry_script": package.entry_script,
            "warnings": package.warnings,
        }
        app.answer({"dry_run": True, "accepted": True, "package": packed, "explanation": jsonable(told)})
        return
    app.say(
        f"{path}: {count_text(package.files, 'file')}, {bytes_text(package.size_bytes)} packed, "
        f"runs {package.entry_script}"
    )
    show(quote_view(told))
    if tasks:
        most = f", all together at most {told.array_most_cpt:,} CPT" if told.array_most_cpt else ""
        app.notice(f"· {count_text(tasks, 'task')}, each at that price{most}")
    app.notice("dry run: nothing was sent")
