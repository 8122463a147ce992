"""How secrets look to people: never their values. Knows rich; knows neither the connection nor click."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import duration_text
from hivemind.secret_methods import SecretInfo


def secrets_table(secrets: Sequence[SecretInfo], now: float) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    noted = any(each.unreadable for each in secrets)
    for title in ("NAME", "SET", *(["NOTE"] if noted else [])):
        table.add_column(title, overflow="fold")
    for each in secrets:
        note = "set it again: the pool's key is another one now" if each.unreadable else ""
        ago = f"{duration_text(max(0.0, now - each.set_at))} ago"
        table.add_row(one_line(each.name), ago, *([note] if noted else []))
    return table
