"""`hivemind nodes`, `hivemind node drain|resume`."""

from __future__ import annotations

import time

import click

from hivemind.cli.app import App, json_option, pass_app
from hivemind.cli.completing import node_ids
from hivemind.cli.connect import connect
from hivemind.cli.render.nodes import ASCII_GLYPHS, GLYPHS, nodes_table, remarks
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import jsonable, stdout_console


@click.command()
@json_option
@pass_app
def nodes(app: App) -> None:
    """The pool's nodes: load, history, owner.

    Amounts are reserved/capacity, in points and GiB; bars show what is used, reserved and free.
    """
    with connect(app) as pool:
        found = pool.nodes()
    if app.json:
        app.answer([jsonable(node) for node in found])
    elif found:
        console = stdout_console()
        glyphs = ASCII_GLYPHS if console.options.ascii_only else GLYPHS
        console.print(nodes_table(found, time.time(), bars=console.is_terminal, glyphs=glyphs))
        for line in remarks(found):
            app.notice(line)
    else:
        app.notice("no node has joined the pool yet")


@click.group()
def node() -> None:
    """Drain or resume a node of yours."""


@node.command()
@click.argument("node_id", metavar="NODE", shell_complete=node_ids)
@json_option
@pass_app
def drain(app: App, node_id: str) -> None:
    """Give NODE no new work; what runs there goes on."""
    _set_draining(app, node_id, draining=True)


@node.command()
@click.argument("node_id", metavar="NODE", shell_complete=node_ids)
@json_option
@pass_app
def resume(app: App, node_id: str) -> None:
    """Give NODE work again."""
    _set_draining(app, node_id, draining=False)


def _set_draining(app: App, node_id: str, *, draining: bool) -> None:
    with connect(app) as pool:
        message = pool.drain(node_id, draining=draining)
    if app.json:
        app.answer({"node_id": node_id, "draining": draining, "message": message})
    else:
        app.notice(one_line(message) or f"{node_id} {'gets no new work' if draining else 'gets work again'}")
