"""`hivemind balance`, `hivemind transfer`."""

from __future__ import annotations

import click

from client.cli.app import App, json_option, pass_app
from client.cli.connect import connect
from client.errors import UnreachableError
from client.terminal import one_line


@click.command()
@json_option
@pass_app
def balance(app: App) -> None:
    """Your CPT."""
    with connect(app) as pool:
        username = pool.whoami().username
        amount = pool.balance()
    if app.json:
        app.answer({"username": username, "balance_cpt": amount})
    else:
        click.echo(f"{amount} CPT")


@click.command()
@click.argument("receiver", metavar="USER")
@click.argument("amount", type=click.IntRange(min=1))
@json_option
@pass_app
def transfer(app: App, receiver: str, amount: int) -> None:
    """Give AMOUNT of your CPT to USER."""
    with connect(app) as pool:
        try:
            message = pool.transfer(receiver, amount)
        except UnreachableError as error:
            error.hint = "whether it was paid is not known: look at `hivemind balance` before you repeat it"
            raise
    if app.json:
        app.answer({"receiver": receiver, "amount_cpt": amount, "message": message})
    else:
        app.notice(one_line(message) or f"{receiver} has {amount} CPT more")
