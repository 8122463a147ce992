"""`hivemind admin`: for accounts with the role admin. The pool keeps every act."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import click

from hivemind.admin import Operator
from hivemind.cli import plugins
from hivemind.cli.admin_tasks import tasks
from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.connect import connect, names_it
from hivemind.cli.disk import disk
from hivemind.cli.render.money import acts_table, users_table
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import jsonable, show

_reason_option = click.option("--reason", required=True, help="Kept with the act.")


class _AdminGroup(click.Group):
    """What goes through the gateway; beside it what the server's package brings for the pool's own host."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        own = super().list_commands(ctx)
        return sorted({*own, *plugins.names(plugins.ADMIN)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or plugins.load(plugins.ADMIN, cmd_name)


@click.group(cls=_AdminGroup)
def admin() -> None:
    """Run the pool: CPT, scores, users, tasks, disputes; on its own host: its database, backups."""


@admin.command()
@click.argument("username", metavar="USER")
@click.argument("amount", type=click.IntRange(min=1))
@click.option("--id", "mint_id", default="", help="Your own id: the same mint again changes nothing.")
@click.option("--memo", default="", help="Shown in the user's statement.")
@json_option
@pass_app
def mint(app: App, username: str, amount: int, *, mint_id: str, memo: str) -> None:
    """Make AMOUNT new CPT for USER."""
    chosen = mint_id or uuid.uuid4().hex
    with names_it(app, f"sent again with `--id {chosen}` it is made once"):
        _act(app, lambda operator: operator.mint(username, amount, chosen, memo))


@admin.command("set-score")
@click.argument("username", metavar="USER")
@click.argument("score", type=click.IntRange(min=0))
@_reason_option
@json_option
@pass_app
def set_score(app: App, username: str, score: int, *, reason: str) -> None:
    """Set the credit score of USER."""
    _act(app, lambda operator: operator.set_credit_score(username, score, reason))


@admin.command()
@click.argument("username", metavar="USER")
@_reason_option
@json_option
@pass_app
def block(app: App, username: str, *, reason: str) -> None:
    """End the tokens and tasks of USER, and give USER's nodes no work."""
    _act(app, lambda operator: operator.set_blocked(username, reason, blocked=True))


@admin.command()
@click.argument("username", metavar="USER")
@click.option("--reason", default="", help="Kept with the act.")
@json_option
@pass_app
def unblock(app: App, username: str, *, reason: str) -> None:
    """Let USER log in again."""
    _act(app, lambda operator: operator.set_blocked(username, reason, blocked=False))


@admin.command()
@click.argument("entry_id", metavar="ENTRY")
@_reason_option
@json_option
@pass_app
def reverse(app: App, entry_id: str, *, reason: str) -> None:
    """Give back a payment, transfer or grant by counter-entries; ENTRY is its id in a statement."""
    _act(app, lambda operator: operator.reverse(entry_id, reason))


@admin.command("list")
@click.option("--name", "contains", default="", help="Only users whose name has this in it.")
@json_option
@pass_app
def list_users(app: App, *, contains: str) -> None:
    """Users, with what they have, hold and run."""
    with connect(app) as pool:
        found = list(pool.operator.users(contains))
    if app.json:
        app.answer([jsonable(user) for user in found])
    elif found:
        show(users_table(found))
    else:
        app.notice("there are no such users")


@admin.command()
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Older than this one.")
@json_option
@pass_app
def audit(app: App, *, limit: int, before: int) -> None:
    """What operators did, newest first."""
    with connect(app) as pool:
        found = pool.operator.acts(limit=limit, before_seq=before)
    if app.json:
        app.answer([jsonable(act) for act in found])
    elif found:
        show(acts_table(found))
    else:
        app.notice("no operator has done anything yet")


admin.add_command(disk)
admin.add_command(tasks)


def _act(app: App, act: Callable[[Operator], str]) -> None:
    with connect(app) as pool:
        message = act(pool.operator)
    if app.json:
        app.answer({"message": message})
    else:
        app.notice(one_line(message))
