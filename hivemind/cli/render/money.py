"""Statements, credit and what operators see, as tables. Strings of the pool are never trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.admin import AdminAct, UserRecord
from hivemind.cli.render.columns import PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.money import Credit, CreditChange, Statement


def moment_text(at: float) -> str:
    """Local time, to the second; empty where there is none."""
    if at <= 0:
        return ""
    try:
        return f"{datetime.fromtimestamp(at, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return ""


def amount_text(amount: int) -> Text:
    """With its sign; what came in is green."""
    return Text(f"{amount:+,}", "green" if amount > 0 else "")


def _table(*columns: tuple[str, str]) -> PlainTable:
    table = PlainTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title, kind in columns:
        if kind == "number":
            table.add_column(title, justify="right", no_wrap=True)
        else:
            table.add_column(title, no_wrap=kind == "word", overflow="ellipsis" if kind == "word" else "fold")
    return table


def statement_table(statement: Statement) -> PlainTable:
    table = _table(
        ("SEQ", "number"), ("WHEN", "word"), ("KIND", "word"), ("AMOUNT", "number"), ("BALANCE", "number"),
        ("WITH", "word"), ("TASK", "word"), ("MEMO", "text"),
    )  # fmt: skip
    for line in statement.lines:
        table.add_row(
            str(line.seq),
            moment_text(line.at),
            Text(one_line(line.kind)),
            amount_text(line.amount),
            f"{line.balance_after:,}",
            Text(one_line(line.counterparty)),
            Text(one_line(line.task_id)),
            Text(one_line(line.memo)),
        )
    return table


def credit_text(credit: Credit) -> RenderableType:
    head = Text.assemble(
        ("credit score ", ""),
        (str(credit.score), "bold"),
        f": opens nodes of {one_line(credit.tier)} trust and below; it drifts to {credit.start_score}",
    )
    parts: list[RenderableType] = [head]
    if credit.limits:
        parts += [Text(), _limits(credit.limits)]
    if credit.changes:
        parts += [Text(), _changes(credit.changes)]
    return Group(*parts)


def _limits(limits: dict[str, int]) -> RenderableType:
    table = PlainTable.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, most in limits.items():
        table.add_row(Text(one_line(name).replace("_", " ")), f"{most:,}")
    return table


def _changes(changes: Sequence[CreditChange]) -> PlainTable:
    table = _table(
        ("SEQ", "number"), ("WHEN", "word"), ("CHANGE", "number"), ("SCORE", "number"), ("WHY", "text"),
        ("NODE", "word"), ("TASK", "word"),
    )  # fmt: skip
    for change in changes:
        table.add_row(
            str(change.seq),
            moment_text(change.at),
            amount_text(change.delta),
            str(change.score_after),
            Text(one_line(change.reason)),
            Text(one_line(change.node_id)),
            Text(one_line(change.task_id)),
        )
    return table


def users_table(users: Iterable[UserRecord]) -> PlainTable:
    table = _table(
        ("USER", "word"), ("ROLE", "word"), ("SCORE", "number"), ("BALANCE", "number"), ("HELD", "number"),
        ("NODES", "number"), ("TASKS", "number"), ("SINCE", "word"), ("", "word"),
    )  # fmt: skip
    for user in users:
        table.add_row(
            Text(one_line(user.username)),
            Text(one_line(user.role)),
            str(user.credit_score),
            f"{user.balance:,}",
            f"{user.held:,}",
            str(user.nodes),
            str(user.unfinished_tasks),
            moment_text(user.created_at)[:10],
            Text("blocked", "red") if user.blocked else "",
        )
    return table


def acts_table(acts: Iterable[AdminAct]) -> PlainTable:
    table = _table(
        ("SEQ", "number"),
        ("WHEN", "word"),
        ("WHO", "word"),
        ("WHAT", "word"),
        ("WHOM", "word"),
        ("DETAIL", "text"),
    )
    for act in acts:
        table.add_row(
            str(act.seq),
            moment_text(act.at),
            Text(one_line(act.admin)),
            Text(one_line(act.action)),
            Text(one_line(act.subject)),
            Text(one_line(act.detail)),
        )
    return table
