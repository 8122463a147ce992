"""What the command line says of a run's arguments, its environment and its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hivemind import env_file
from hivemind.amounts import mebibytes_of
from hivemind.cli.app import App
from hivemind.cli.completing import secret_names, target_names

notify_option = click.option(
    "--notify",
    multiple=True,
    metavar="NAME",
    shell_complete=target_names,
    help="A target of yours (`hivemind notify`) that is told when all of it has ended; may be given several "
    "times.",
)
_OPTIONS = (
    click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGS...]"),
    click.option(
        "-e",
        "--env",
        "variables",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="A variable of the run's environment, without a value that of yours; "
        "may be given several times.",
    ),
    click.option(
        "--env-file",
        "env_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Variables from a file, one NAME=VALUE a line, as `docker run --env-file` reads it.",
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        metavar="NAME[=VARIABLE]",
        shell_complete=secret_names,
        help="A secret of yours (`hivemind secret`) as a variable of the run; may be given several times.",
    ),
    click.option(
        "--secret-on-low-trust",
        "secrets_on_low_trust",
        is_flag=True,
        help="Also on nodes of low trust. The owner of the machine can read the secrets there, as anywhere "
        "[default: only nodes of more trust, and your own].",
    ),
    click.option("--name", default="", help="What you call it; several tasks may have the same name."),
    click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="KEY=VALUE",
        help="To find it again; may be given several times.",
    ),
    notify_option,
)


def _mebibytes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    return None if text is None else mebibytes_of(text, "--memory")


memory_option = click.option(
    "--memory",
    "memory_mb",
    metavar="SIZE",
    callback=_mebibytes,
    help="Memory, such as 512M or 1.5G [default: the pool's].",
)


class TakesArguments(click.Command):
    """A command that gives what comes after -- on. Words before it that nobody asked for are refused."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        told = "--" in args
        rest = super().parse_args(ctx, args)
        extra: tuple[Any, ...] = ctx.params.get("arguments") or ()
        if extra and not told and not ctx.resilient_parsing:
            raise click.UsageError(
                f"unexpected {extra[0]!r}: put -- before what the task itself is to be given", ctx
            )
        return rest


def takes_inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that begins runs; `inputs_of` makes of them what `TaskNeeds` has."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def inputs_of(app: App, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the run's environment and labels in place of how they were said.

    Raises RefusedError and click.UsageError.
    """
    values = dict(options)
    environment, warnings = environment_of(values.pop("variables"), values.pop("env_files"), app.environment)
    for warning in warnings:
        app.notice(f"warning: {warning}")
    if values["secrets_on_low_trust"] and not values["secrets"]:
        raise click.UsageError("--secret-on-low-trust goes with --secret: it says where those may go")
    return {
        **values,
        "environment": {**app.project.environment, **environment},
        "labels": {**app.project.labels, **labels_of(values["labels"])},
    }


def environment_of(
    variables: Iterable[str], files: Iterable[Path], callers: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Variables and warnings. What is said on the command line wins over files, and later over earlier.

    Raises RefusedError, and click.UsageError for a variable that the caller does not have.
    """
    found: dict[str, str] = {}
    warnings: list[str] = []
    for file in files:
        read = env_file.parse(env_file.read(file), callers, str(file))
        found |= read.variables
        warnings += read.warnings
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals and name not in callers:
            raise click.UsageError(f"-e {name}: your environment has no {name}; give it as {name}=VALUE")
        found[name] = value if equals else callers[name]
    return found, tuple(warnings)


def labels_of(labels: Iterable[str]) -> dict[str, str]:
    """Raises click.UsageError for what is no KEY=VALUE."""
    found: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise click.UsageError(f"--label {label}: give it as KEY=VALUE")
        if key in found:
            raise click.UsageError(f"--label {key} is given twice: a task has each key once")
        found[key] = value
    return found
