"""What `hivemind submit` takes from `hivemind.toml` where its command line says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hivemind import project_file
from hivemind.cli.app import App
from hivemind.errors import RefusedError

# What belongs to one submit alone, or to whoever submits.
COMMAND_LINE_ONLY = frozenset({
    "after", "after-any", "array", "dry-run", "each-line", "env-file", "follow", "force", "include", "job-id",
    "json", "label", "matrix", "max-cpt", "output", "secret", "secret-on-low-trust",
    "stop-on-interrupt", "task-id",
})  # fmt: skip


def take_defaults(context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    """The callback of PATH, which is eager: the other options look for their defaults after it."""
    if context.resilient_parsing or (file := project_file.find(path)) is None:
        return path
    found = project_file.read(file)
    by_name = _options(context.command)
    defaults: dict[str, Any] = {}
    for name, value in found.options.items():
        if name not in by_name:
            raise project_file.unknown(file, name, sorted([*by_name, "env", "labels"]))
        option = by_name[name]
        _check_type(file, name, option, value)
        defaults[option.name or name] = value
    context.default_map = defaults
    app = context.ensure_object(App)
    app.project = found
    app.notice(f"· options that are not given come from {file}")
    return path


def _options(command: click.Command) -> dict[str, click.Option]:
    """Those that a project can say, by their long names without the dashes."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option):
            name = max(option.opts, key=len).removeprefix("--")
            if name not in COMMAND_LINE_ONLY and name != "env":
                found[name] = option
    return found


def _check_type(file: Path, name: str, option: click.Option, value: Any) -> None:
    """click would make a whole number of 1.9, and a text of whatever it is given."""
    if option.is_flag:
        wanted, fits = "true or false", isinstance(value, bool)
    elif option.multiple:
        wanted = "a list of texts"
        fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
    elif isinstance(option.type, click.types.IntParamType):
        wanted, fits = "a whole number", isinstance(value, int) and not isinstance(value, bool)
    else:
        wanted, fits = "a text", isinstance(value, str)
    if not fits:
        raise RefusedError(f"{file}: {name} must be {wanted}, not {value!r:.40}")
