"""`hivemind submit --array`, `--each-line` and `--matrix`: one upload, many tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from hivemind import sweeps
from hivemind.array_upload import new_job_id
from hivemind.cli.app import App
from hivemind.cli.connect import connect, names_it
from hivemind.cli.explain import dry_run
from hivemind.cli.render.tasks import bytes_text, count_text, jsonable, transfer_bar
from hivemind.cli.run_inputs import TakesArguments
from hivemind.errors import ExitCode
from hivemind.needs import TaskNeeds
from hivemind.sweeps import Sweep
from nodepool.domain.tasks.run_inputs import RunInputs

_Command = TypeVar("_Command", bound=Callable[..., Any])
_NAMES = ("array", "each_line", "matrix", "job_id", "max_cpt")


def sweep_options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.option("--array", metavar="RANGE", help="A task for each index, such as 0-199 or 1,2,5-9."),
            click.option(
                "--each-line",
                type=click.Path(path_type=Path, dir_okay=False),
                metavar="CSV",
                help="A task for each line of a CSV file; its header has the names.",
            ),
            click.option(
                "--matrix",
                multiple=True,
                metavar="NAME=VALUES",
                help="A task for each combination, such as --matrix lr=0.1,0.01 seed=1-10. {name} and "
                "{index} in arguments and in --env are the task's own; {{ and }} are braces.",
            ),
            click.option("--job-id", help="Your own id for the array; sent again it changes nothing."),
            click.option(
                "--max-cpt",
                type=click.IntRange(min=1),
                help="Refuse an array that could cost more.",
            ),
        )
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class SweepChoice:
    """`sweep` is None for one task."""

    sweep: Sweep | None
    job_id: str
    max_cpt: int


class SweepCommand(TakesArguments):
    """Takes `--matrix lr=0.1,0.01 seed=1-10` as people write it: what follows with an = is of the matrix."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, spread_matrix(args))


def spread_matrix(args: Sequence[str]) -> list[str]:
    """`--matrix` before each of its parts."""
    found: list[str] = []
    in_matrix = False
    for at, word in enumerate(args):
        if word == "--":
            return [*found, *args[at:]]
        if word == "--matrix":
            in_matrix = True
            if at + 1 == len(args) or "=" not in args[at + 1]:
                found.append(word)  # click says what is missing
                in_matrix = False
        elif in_matrix and "=" in word and not word.startswith("-"):
            found += ["--matrix", word]
        else:
            in_matrix = False
            found.append(word)
    return found


def take_sweep(options: dict[str, Any]) -> SweepChoice:
    """What is about arrays, out of all options. Raises UsageError and RefusedError."""
    array, each_line, matrix, job_id, max_cpt = (options.pop(name) for name in _NAMES)
    said = {"--array": array is not None, "--each-line": each_line is not None, "--matrix": bool(matrix)}
    given = [name for name, is_given in said.items() if is_given]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} each say what the tasks are: take one of them")
    sweep: Sweep | None = None
    if array is not None:
        sweep = sweeps.of_range(array)
    elif each_line is not None:
        sweep = sweeps.of_lines(each_line)
    elif matrix:
        sweep = sweeps.of_matrix(part for word in matrix for part in sweeps.parts(word))
    elif job_id or max_cpt:
        raise click.UsageError("--job-id and --max-cpt go with --array, --each-line or --matrix")
    return SweepChoice(sweep, job_id or "", max_cpt or 0)


def submit_sweep(
    app: App,
    path: Path,
    sweep: Sweep,
    needs: TaskNeeds,
    choice: SweepChoice,
    include: Sequence[str],
    *,
    is_dry: bool,
    is_one: bool,
) -> int:
    """`is_one`: something was asked for that goes with one task only."""
    if is_one:
        raise click.UsageError("--follow and --task-id are for one task; an array has --job-id")
    if is_dry:
        sweep.check(RunInputs(tuple(needs.arguments), dict(needs.environment)))
        dry_run(app, path, needs, include, tasks=len(sweep), max_cpt=choice.max_cpt)
        return ExitCode.OK
    chosen = choice.job_id or new_job_id()
    with connect(app) as pool:
        words = f"send {chosen} again with `--job-id {chosen}`, which never makes two of it"
        with names_it(app, words), transfer_bar("upload", shown=not app.json) as progress:
            sent = pool.submit_array(
                path,
                sweep,
                needs,
                job_id=chosen,
                max_cpt=choice.max_cpt,
                progress=progress,
                include=include,
            )
    for warning in sent.warnings:
        app.notice(f"warning: {warning}")
    if app.json:
        app.answer(jsonable(sent))
        return ExitCode.OK
    app.notice(
        f"· {count_text(sent.tasks, 'task')}: accepted before; nothing was changed"
        if sent.repeated
        else f"· sent {bytes_text(sent.package_bytes)} for {count_text(sent.tasks, 'task')}, at most "
        f"{sent.most_cpt:,} CPT, of which each holds its own when it is placed"
    )
    app.say(sent.job_id)
    return ExitCode.OK
