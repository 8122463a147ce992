"""`hivemind balance`, `transfer`, `ledger`, `credit`."""

from __future__ import annotations

import uuid

import click

from hivemind import money
from hivemind.cli import plugins
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect, names_it
from hivemind.cli.render.money import credit_text, statement_table
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import bytes_text, count_text, days_text, jsonable, show


@click.command()
@json_option
@pass_app
def balance(app: App) -> None:
    """Your CPT."""
    with connect(app) as pool:
        username = pool.whoami().username
        found = pool.balance()
    if app.json:
        app.answer({"username": username, "balance_cpt": found.balance, **jsonable(found)})
    else:
        held = f", and {found.held:,} CPT held for tasks" if found.held else ""
        app.say(f"{found.balance:,} CPT{held}")
        if found.stored_bytes_limit:
            most = bytes_text(found.stored_bytes_limit)
            stay = f"; results stay {days_text(found.result_days)}" if found.result_days else ""
            app.say(f"{bytes_text(found.stored_bytes)} of {most} kept in the pool{stay}")


@click.command()
@click.argument("receiver", metavar="USER")
@click.argument("amount", type=click.IntRange(min=1))
@click.option("--id", "transfer_id", default="", help="Your own id: the same transfer again moves nothing.")
@json_option
@pass_app
def transfer(app: App, receiver: str, amount: int, *, transfer_id: str) -> None:
    """Give AMOUNT of your CPT to USER."""
    chosen = transfer_id or uuid.uuid4().hex
    words = f"`hivemind ledger` tells; sent again with `--id {chosen}` it is paid once"
    with connect(app) as pool, names_it(app, words):
        done = pool.transfer(receiver, amount, transfer_id=chosen)
    if app.json:
        app.answer({"receiver": receiver, "amount_cpt": amount, **jsonable(done)})
    else:
        app.notice(one_line(done.message) or f"{receiver} has {amount} CPT more")


class _LedgerGroup(click.Group):
    """The statement by itself; below it what the server's package brings for operators."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return plugins.names(plugins.LEDGER)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return plugins.load(plugins.LEDGER, cmd_name)


@click.group(cls=_LedgerGroup, invoke_without_command=True)
@click.option("--task", "task_id", default="", metavar="TASK", help="Only what belongs to this task.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="At most so many; 0: all."
)
@click.option("--before", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Older than this one.")
@json_option
@click.pass_context
def ledger(context: click.Context, *, task_id: str, limit: int, before: int) -> None:
    """What moved on your account, newest first."""
    if context.invoked_subcommand is not None:
        return
    app = context.ensure_object(App)
    with connect(app) as pool:
        found = money.whole_statement(pool.statement, task_id=task_id, limit=limit, before_seq=before)
    if app.json:
        app.answer(jsonable(found))
        return
    if found.lines:
        show(statement_table(found))
    else:
        app.notice("nothing has moved" + (f" for {one_line(task_id)}" if task_id else ""))
    if found.next_before_seq:
        app.notice(f"there is more: --before {found.next_before_seq}")
    held = f", and {found.held:,} CPT held for tasks" if found.held else ""
    app.notice(f"balance: {found.balance:,} CPT{held}")


@click.command()
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="At most so many; 0: all."
)
@click.option("--before", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Older than this one.")
@json_option
@pass_app
def credit(app: App, *, limit: int, before: int) -> None:
    """Your credit score, what it opens, and the reason of every change."""
    with connect(app) as pool:
        found = money.whole_credit(pool.credit, limit=limit, before_seq=before)
    if app.json:
        app.answer(jsonable(found))
        return
    show(credit_text(found))
    if found.next_before_seq:
        app.notice(
            f"{count_text(len(found.changes), 'change')} shown; there are more: "
            f"--before {found.next_before_seq}"
        )
