"""How the pool's storage looks to its operator."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import bytes_text, days_text
from hivemind.disk_use import DiskUse, KeptThings


def disk_view(found: DiskUse, *, with_what_would_go: bool) -> Group:
    parts: list[RenderableType] = [_room(found), "", _things("KEPT", found.kept)]
    if with_what_would_go:
        parts += ["", _things("WOULD GO NOW", found.would_go), _rules(found)]
    if found.users:
        parts += ["", _users(found)]
    return Group(*parts)


def _room(found: DiskUse) -> PlainTable:
    table = PlainTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    free, total = bytes_text(found.storage_free_bytes), bytes_text(found.storage_total_bytes)
    table.add_row(Text("storage", "bold"), f"{free} free of {total}")
    reusable = found.database_reusable_bytes
    again = f", {bytes_text(reusable)} of it free for new rows" if reusable else ""
    table.add_row(Text("database", "bold"), f"{bytes_text(found.database_bytes)}{again}")
    most = f" of {bytes_text(found.broker_limit_bytes)}" if found.broker_limit_bytes else ""
    table.add_row(Text("broker", "bold"), f"{bytes_text(found.broker_bytes)}{most}")
    return table


def _things(title: str, things: tuple[KeptThings, ...]) -> PlainTable:
    table = _table((title, "COUNT", "BYTES"))
    for it in things:
        table.add_row(Text(one_line(it.kind)), f"{it.count:,}", bytes_text(it.bytes) if it.bytes else "")
    return table


def _rules(found: DiskUse) -> Text:
    named = (("results", found.result_days), ("outputs", found.log_days), ("tasks", found.task_days))
    told = (f"{name} after {days_text(days)}" if days else f"{name} never" for name, days in named)
    return Text(f"({', '.join(told)})")


def _users(found: DiskUse) -> PlainTable:
    table = _table(("USER", "TASKS", "BYTES", "AT MOST"))
    for user in found.users:
        table.add_row(
            Text(one_line(user.username)),
            f"{user.tasks:,}",
            bytes_text(user.stored_bytes),
            bytes_text(user.stored_bytes_limit),
        )
    return table


def _table(titles: tuple[str, ...]) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0))
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index == 0 else "right")
    return table
