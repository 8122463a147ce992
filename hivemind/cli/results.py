"""`hivemind result`: the files of one task, or of several, each into a directory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect
from hivemind.cli.naming import FINISHED, chosen, each_of, is_one, takes_names
from hivemind.cli.render.tasks import bytes_text, count_text
from hivemind.cli.submit import fetch, result_json
from hivemind.models import ResultInfo
from hivemind.sdk import NodePoolClient
from hivemind.zip_unpack import MAX_UNPACKED_BYTES


@click.command()
@takes_names()
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Unpack into this directory [default: named as the task]; of several tasks into one for each in it.",
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
    app: App,
    task_ids: tuple[str, ...],
    labels: tuple[str, ...],
    *,
    output: Path | None,
    zip_file: Path | None,
    force: bool,
    max_gib: int,
) -> int:
    """Fetch the files of tasks. TASK is an id, or a beginning that only one id has.

    --label fetches those that have ended. Of several tasks one that cannot be had is named, and the others
    come; nothing that is there is overwritten without --force.
    """
    if output and zip_file:
        raise click.UsageError("--output and --zip: choose one")
    alone = is_one(task_ids, labels)
    if zip_file and not alone:
        raise click.UsageError("--zip is for one task; several go into directories: --output")

    with connect(app) as pool:
        found = chosen(pool, task_ids, labels, states=FINISHED).tasks

        def one(task_id: str) -> Mapping[str, Any]:
            # A whole id has no separator of paths: it was checked when it was resolved.
            usual = output or Path(task_id)
            place = zip_file or (usual if alone else (output or Path()) / task_id)
            return _fetched(app, pool, task_id, place, unpack=zip_file is None, force=force, gib=max_gib)

        if alone:
            answer = one(found[0])
            if app.json:
                app.answer(answer)
            return 0
        answers, code = each_of(app, found, one)
    if app.json:
        app.answer(answers)
    return code


def _fetched(
    app: App, pool: NodePoolClient, task_id: str, place: Path, *, unpack: bool, force: bool, gib: int
) -> dict[str, Any]:
    got = fetch(app, pool, task_id, place, unpack=unpack, force=force, max_unpacked_bytes=gib << 30)
    app.notice(f"{_what(got, unpack=unpack)} in {place}")
    return result_json(got)


def _what(got: ResultInfo, *, unpack: bool) -> str:
    return count_text(len(got.files), "file") if unpack else bytes_text(got.result_bytes)
