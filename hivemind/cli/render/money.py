"""Statements, credit and what operators see, as tables. Strings of the pool are never trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from hivemind.admin import AdminAct, UserRecord
from hivemind.cli.render.columns import Column, FittedTable, Form, PlainTable
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import cut_text
from hivemind.money import Credit, CreditChange, Statement, StatementLine

Item = TypeVar("Item")
_DAY = len("2026-01-31")
_FOLDS_AT = 14
_NAME_CHARACTERS = 16
# By the kind of a column, how its words are shortened.
_SHORT: dict[str, Callable[[str], str]] = {
    "time": lambda words: words[:_DAY],
    "name": lambda words: cut_text(words, _NAME_CHARACTERS),
}


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


def _fitted(
    items: Sequence[Item],
    columns: Sequence[tuple[str, str, Callable[[Item], str | Text]]],
    shrink: Sequence[str],
) -> FittedTable[Item]:
    """Of columns with their kinds: number, word, name, time, and one text, which goes on below. A time can be
    shown as its day, and a name cut."""

    def cell(told: Callable[[Item], str | Text]) -> Callable[[Item], Text]:
        def styled(item: Item) -> Text:
            value = told(item)
            return value if isinstance(value, Text) else Text(one_line(value))

        return styled

    def forms(title: str, kind: str, told: Callable[[Item], str | Text]) -> tuple[Form[Item], ...]:
        whole = cell(told)
        if kind not in _SHORT:
            return (Form(title, whole),)
        return Form(title, whole), Form(title, lambda item: Text(_SHORT[kind](whole(item).plain)))

    made = [
        Column(
            title,
            forms(title, kind, told),
            justify="right" if kind == "number" else "left",
            folds_at=_FOLDS_AT if kind == "text" else 0,
        )
        for title, kind, told in columns
    ]
    return FittedTable(items, made, shrink)


def statement_table(statement: Statement) -> FittedTable[StatementLine]:
    return _fitted(
        statement.lines,
        (
            ("SEQ", "number", lambda line: str(line.seq)),
            ("WHEN", "time", lambda line: moment_text(line.at)),
            ("KIND", "word", lambda line: line.kind),
            ("AMOUNT", "number", lambda line: amount_text(line.amount)),
            ("BALANCE", "number", lambda line: f"{line.balance_after:,}"),
            ("WITH", "word", lambda line: line.counterparty),
            ("TASK", "name", lambda line: line.task_id),
            ("MEMO", "text", lambda line: line.memo),
        ),
        ("SEQ", "WHEN", "WITH", "BALANCE", "TASK", "KIND", "WHEN"),
    )


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


def _changes(changes: Sequence[CreditChange]) -> FittedTable[CreditChange]:
    return _fitted(
        changes,
        (
            ("SEQ", "number", lambda change: str(change.seq)),
            ("WHEN", "time", lambda change: moment_text(change.at)),
            ("CHANGE", "number", lambda change: amount_text(change.delta)),
            ("SCORE", "number", lambda change: str(change.score_after)),
            ("WHY", "text", lambda change: change.reason),
            ("NODE", "name", lambda change: change.node_id),
            ("TASK", "name", lambda change: change.task_id),
        ),
        ("SEQ", "WHEN", "NODE", "TASK", "NODE", "TASK", "WHEN"),
    )


def users_table(users: Iterable[UserRecord]) -> FittedTable[UserRecord]:
    return _fitted(
        tuple(users),
        (
            ("USER", "name", lambda user: user.username),
            ("ROLE", "word", lambda user: user.role),
            ("SCORE", "number", lambda user: str(user.credit_score)),
            ("BALANCE", "number", lambda user: f"{user.balance:,}"),
            ("HELD", "number", lambda user: f"{user.held:,}"),
            ("NODES", "number", lambda user: str(user.nodes)),
            ("TASKS", "number", lambda user: str(user.unfinished_tasks)),
            ("SINCE", "word", lambda user: moment_text(user.created_at)[:_DAY]),
            ("", "word", lambda user: Text("blocked", "red") if user.blocked else ""),
        ),
        ("SINCE", "HELD", "ROLE", "NODES", "USER"),
    )


def acts_table(acts: Iterable[AdminAct]) -> FittedTable[AdminAct]:
    return _fitted(
        tuple(acts),
        (
            ("SEQ", "number", lambda act: str(act.seq)),
            ("WHEN", "time", lambda act: moment_text(act.at)),
            ("WHO", "name", lambda act: act.admin),
            ("WHAT", "word", lambda act: act.action),
            ("WHOM", "name", lambda act: act.subject),
            ("DETAIL", "text", lambda act: act.detail),
        ),
        ("SEQ", "WHEN", "WHOM", "WHO"),
    )
