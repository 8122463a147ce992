"""`hivemind secret set|ls|rm`. A value comes from stdin or is asked for, and is never shown."""

from __future__ import annotations

import sys
import time

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import secret_names
from hivemind.cli.connect import connect
from hivemind.cli.render.secrets import secrets_table
from hivemind.cli.render.tasks import jsonable, show
from hivemind.errors import ExitCode, MissingError
from nodepool.domain.tasks.run_secrets import MAX_VALUE_BYTES, check_secret_name, check_secret_value

_NOT_AN_ARGUMENT = (
    "the value of a secret is no argument: others see the list of processes, and your shell keeps it. Pipe "
    "it in (`hivemind secret set NAME < FILE`) or leave it out and be asked. If that was the value, have it "
    "changed where it comes from"
)


@click.group()
def secret() -> None:
    """What your tasks may know and nobody else: tokens, passwords, keys.

    `hivemind submit --secret NAME` gives one to a run.
    """


@secret.command("set")
@click.argument("words", nargs=-1, required=True, metavar="NAME", shell_complete=secret_names)
@json_option
@pass_app
def set_(app: App, words: tuple[str, ...]) -> None:
    """Keep a secret NAME, encrypted, or give it another value.

    The value is what comes on stdin, without one line end at its end, or what you type when you are asked.
    """
    name, *more = words
    if more or "=" in name:
        raise click.UsageError(_NOT_AN_ARGUMENT)
    # Before anybody is asked for a value that would be refused.
    check_secret_name(name)
    value = _value(name)
    check_secret_value(value)
    with connect(app) as pool:
        message = pool.set_secret(name, value)
    if app.json:
        app.answer({"name": name, "message": message})
    else:
        app.notice(message)


@secret.command()
@json_option
@pass_app
def ls(app: App) -> None:
    """Your secrets: their names, and when they were set."""
    with connect(app) as pool:
        found = pool.secrets()
    if app.json:
        app.answer([jsonable(each) for each in found])
    elif found:
        show(secrets_table(found, time.time()))
    else:
        app.notice("there are no secrets; `hivemind secret set NAME` keeps one")


@secret.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=secret_names)
@json_option
@pass_app
def rm(app: App, names: tuple[str, ...]) -> int:
    """Remove secrets. Tasks that name one and have not begun will fail."""
    code = ExitCode.OK
    answers = []
    with connect(app) as pool:
        for name in dict.fromkeys(names):
            try:
                removed = pool.remove_secret(name)
            except MissingError as error:
                message, waiting, is_removed, code = str(error), 0, False, error.exit_code
            else:
                message, waiting, is_removed = removed.message, removed.waiting_tasks, True
            answers.append(
                {"name": name, "removed": is_removed, "waiting_tasks": waiting, "message": message}
            )
            app.notice(message)
    if app.json:
        app.answer(answers)
    return code


def _value(name: str) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return typed
    # More than a value has is enough to say that it is too long.
    read = sys.stdin.buffer.read(MAX_VALUE_BYTES + 3)
    for ending in (b"\r\n", b"\n"):
        if read.endswith(ending):
            read = read[: -len(ending)]
            break
    return read.decode("utf-8", "surrogateescape")
