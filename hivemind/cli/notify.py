"""`hivemind notify set|ls|rm|test|confirm`: where one is told when tasks end."""

from __future__ import annotations

import time

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import target_names
from hivemind.cli.connect import connect
from hivemind.cli.render.notify import targets_table, tried_text
from hivemind.cli.render.tasks import jsonable, show
from hivemind.errors import ExitCode, MissingError
from nodepool.domain.notifications.delivery import DeliveryState

# A receiver has ten seconds by default, and a dispatcher looks every two.
_TEST_SECONDS, _PAUSE_SECONDS = 30.0, 0.5


@click.group()
def notify() -> None:
    """Be told when tasks end: by a webhook or by mail.

    `hivemind submit --notify NAME` tells one of a task, an array or a flow.
    """


@notify.command("set")
@click.argument("name", shell_complete=target_names)
@click.argument("url")
@click.option(
    "--rotate", is_flag=True, help="Make a new signing key; the one before signs beside it for a day."
)
@json_option
@pass_app
def set_(app: App, name: str, url: str, *, rotate: bool) -> None:
    """Be told at URL under NAME: https://…, http://… or mailto:ADDRESS.

    What a webhook is sent is signed. The key is shown once, here, and goes to whoever checks the signature.
    An address is mailed a code first, for `hivemind notify confirm`.
    """
    with connect(app) as pool:
        done = pool.set_notify_target(name, url, rotate=rotate)
    if app.json:
        app.answer({"name": name, **jsonable(done)})
        return
    app.notice(done.message)
    if done.key:
        app.notice("its signing key, which is not shown again (Standard Webhooks, webhook-signature):")
        app.say(done.key)


@notify.command()
@json_option
@pass_app
def ls(app: App) -> None:
    """Your targets, and what came of the newest try at each."""
    with connect(app) as pool:
        found = pool.notify_targets()
    if app.json:
        app.answer([jsonable(each) for each in found])
    elif found:
        show(targets_table(found, time.time()))
    else:
        app.notice("there are no targets; `hivemind notify set NAME URL` sets one")


@notify.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=target_names)
@json_option
@pass_app
def rm(app: App, names: tuple[str, ...]) -> int:
    """Remove targets. What waits to be sent there is not sent any more."""
    code = ExitCode.OK
    answers = []
    with connect(app) as pool:
        for name in dict.fromkeys(names):
            try:
                message, is_removed = pool.remove_notify_target(name), True
            except MissingError as error:
                message, is_removed, code = str(error), False, error.exit_code
            answers.append({"name": name, "removed": is_removed, "message": message})
            app.notice(message)
    if app.json:
        app.answer(answers)
    return code


@notify.command()
@click.argument("name", shell_complete=target_names)
@json_option
@pass_app
def test(app: App, name: str) -> int:
    """Have a test sent to NAME, and say what came of it."""
    with connect(app) as pool:
        told = pool.test_notify_target(name)
        until = time.monotonic() + _TEST_SECONDS
        while told.state == DeliveryState.WAITING and not told.words and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)
            told = pool.test_notify_target(name, event_id=told.event_id)
    was_sent = told.state == DeliveryState.SENT
    if app.json:
        app.answer(jsonable(told))
    else:
        app.notice(f"{name}: {tried_text(told)}")
    return ExitCode.OK if was_sent else ExitCode.FAILURE


@notify.command()
@click.argument("name", shell_complete=target_names)
@click.argument("code")
@json_option
@pass_app
def confirm(app: App, name: str, code: str) -> None:
    """Confirm the mail address of NAME with the CODE that was mailed there."""
    with connect(app) as pool:
        message = pool.confirm_notify_target(name, code)
    if app.json:
        app.answer({"name": name, "message": message})
    else:
        app.notice(message)
