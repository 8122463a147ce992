"""How targets of notifications look to people. Knows rich; knows neither the connection nor click."""

from __future__ import annotations

from collections.abc import Sequence

from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import duration_text
from hivemind.notify_targets import NotifyTarget
from hivemind.told import NotificationInfo
from nodepool.domain.notifications.delivery import DeliveryState


def targets_table(targets: Sequence[NotifyTarget], now: float) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("NAME", "URL", "SET", "LAST"):
        table.add_column(title, overflow="fold")
    for each in targets:
        ago = f"{duration_text(max(0.0, now - each.set_at))} ago"
        table.add_row(one_line(each.name), one_line(each.url), ago, one_line(_last(each, now)))
    return table


def _last(target: NotifyTarget, now: float) -> str:
    if not target.confirmed:
        return f"not confirmed: hivemind notify confirm {target.name} CODE"
    if target.told_at is None:
        return ""
    ago = f"{duration_text(max(0.0, now - target.told_at))} ago"
    word = "tried" if target.told_state == DeliveryState.WAITING else target.told_state
    return f"{word} {ago}: {target.told_words}" if target.told_words else f"{word} {ago}"


def tried_text(told: NotificationInfo) -> str:
    """What came of a test."""
    if told.state == DeliveryState.SENT:
        return f"sent, and {told.words}"
    if told.state != DeliveryState.WAITING:
        return f"{told.state}: {told.words}"
    if told.words:
        return f"{told.words}; it is tried again, and `hivemind notify ls` says what comes of it"
    return "not sent yet; `hivemind notify ls` says what comes of it"
