"""What every command is given: the environment, the command line's global options, how to answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from hivemind import config
from hivemind.cli.render.plain_text import json_line, one_line
from hivemind.project_file import ProjectDefaults

_Function = TypeVar("_Function", bound=Any)


@dataclass(slots=True)
class App:
    environment: Mapping[str, str]
    options: config.CommandLineOptions = field(default_factory=config.CommandLineOptions)
    json: bool = False
    project: ProjectDefaults = field(default_factory=ProjectDefaults)

    @property
    def profile_path(self) -> Path:
        return config.profile_path(self.environment)

    def connection(self) -> config.Connection:
        return config.resolve(config.load(self.profile_path), self.environment, self.options)

    def answer(self, value: Any) -> None:
        """The machine-readable answer: one JSON value on one line of stdout."""
        click.echo(json_line(value))

    def say(self, text: str) -> None:
        """The answer in words: one line of stdout."""
        click.echo(one_line(text))

    def notice(self, text: str) -> None:
        """For people only, on stderr."""
        if not self.json:
            click.echo(one_line(text), err=True)


pass_app = click.make_pass_decorator(App)


def _set_json(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    if value:
        context.ensure_object(App).json = True


def json_option(function: _Function) -> _Function:
    """`--json` after the command's name, as well as before it."""
    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        help="Answer in JSON on stdout, errors in JSON on stderr.",
    )
    decorated: _Function = option(function)
    return decorated


def write_stdout(data: bytes) -> None:
    """All of it: an unbuffered stdout (PYTHONUNBUFFERED) writes what fits into a pipe and says how much."""
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) or 0 :]
    sys.stdout.buffer.flush()
