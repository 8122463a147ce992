"""Tables that fit their terminal: columns get narrower, then go, in an order that the table names.

Every cell goes through `plain_text`, here and nowhere else, so that no column can forget it: brackets in it
are no markup, and what would not be seen as it is gets a mark. Knows rich and nothing of what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nodepool.domain.safe_text import harmless

Item = TypeVar("Item")
_GAP = 2
# Below this a column that folds is not worth its lines.
_LEAST_FOLDED = 12


class PlainTable(Table):
    """A table of rich's whose cells are taken by the letter."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(_plain_cell(cell) for cell in cells), **options)


def plain(text: Text) -> Text:
    """The same with its styles, and with characters that do no harm."""
    shown = harmless(text.plain)
    if shown != text.plain:
        text = text.copy()
        text.plain = shown  # as long as before, so that the styles stay where they are
    return text


def _plain_cell(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, str):
        return Text(harmless(cell))
    return plain(cell) if isinstance(cell, Text) else cell


@dataclass(frozen=True, slots=True)
class Form(Generic[Item]):
    """One way to show a column."""

    title: str
    cell: Callable[[Item], Text]


@dataclass(frozen=True, slots=True)
class Column(Generic[Item]):
    """`forms`, the widest first.

    `folds_at`: it goes on below instead of being cut; other columns give way until it has that width.
    """

    name: str
    forms: tuple[Form[Item], ...]
    justify: Literal["left", "right"] = "left"
    folds_at: int = 0  # 0: never


@dataclass(slots=True)
class _Shown:
    """A column in one of its forms."""

    column: Column[object]
    form: int
    title: str = ""
    cells: list[Text] = field(default_factory=list)
    width: int = 0

    def take(self, items: Sequence[object], form: int) -> None:
        self.form = form
        chosen = self.column.forms[form]
        self.title = chosen.title
        self.cells = [plain(chosen.cell(item)) for item in items]
        longest = max((cell_len(cell.plain) for cell in self.cells), default=0)
        # A column in which nothing is said is left out.
        self.width = max(longest, cell_len(self.title)) if longest else 0


@dataclass(frozen=True, slots=True)
class FittedTable(Generic[Item]):
    """`shrink` names columns: each mention takes the next form, and after the last one the column goes."""

    items: Sequence[Item]
    columns: Sequence[Column[Item]]
    shrink: Sequence[str] = ()
    # One line a row, whatever it costs.
    cut: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._fit(options.max_width)
        too_wide = _total(shown) - options.max_width
        folding = [each for each in shown if each.column.folds_at]
        if too_wide > 0 and folding and not self.cut:
            yield _folded(shown, options.max_width)
            return
        for each in folding if too_wide > 0 else ():
            each.width = max(_LEAST_FOLDED, each.width - too_wide)
        # A table of rich's would do as well, at ten times the cost; fleets are large.
        yield from _line([Text(each.title, "bold") for each in shown], shown, console)
        for row in zip(*(each.cells for each in shown), strict=True):
            yield from _line(row, shown, console)

    def _fit(self, width: int) -> list[_Shown]:
        shown = {}
        for column in self.columns:
            shown[column.name] = _Shown(column, 0)  # type: ignore[arg-type]
            shown[column.name].take(self.items, 0)
        for name in self.shrink:
            if self._least([each for each in shown.values() if each.width]) <= width:
                break
            each = shown[name]
            if each.form + 1 < len(each.column.forms):
                each.take(self.items, each.form + 1)
            else:
                each.width = 0
        return [each for each in shown.values() if each.width]

    def _least(self, shown: Sequence[_Shown]) -> int:
        folding = [] if self.cut else [each for each in shown if each.column.folds_at]
        spare = sum(max(0, each.width - each.column.folds_at) for each in folding)
        return _total(shown) - spare


def _total(shown: Sequence[_Shown]) -> int:
    return sum(each.width for each in shown) + _GAP * max(0, len(shown) - 1)


def _line(cells: Sequence[Text], shown: Sequence[_Shown], console: Console) -> Iterator[Segment]:
    gap = 0
    for cell, each in zip(cells, shown, strict=True):
        if cell.cell_len > each.width:
            cell.truncate(each.width, overflow="ellipsis")
        free = each.width - cell.cell_len
        before = free if each.column.justify == "right" else 0
        if cell.plain:
            yield Segment(" " * (gap + before))
            yield from cell.render(console)
            gap = 0
        gap += _GAP + (free - before if cell.plain else each.width)
    yield Segment.line()


def _folded(shown: Sequence[_Shown], width: int) -> PlainTable:
    """What does not fit goes on below, in the columns that may fold."""
    table = PlainTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    room = width - _total([each for each in shown if not each.column.folds_at]) - _GAP
    for each in shown:
        folds = bool(each.column.folds_at)
        table.add_column(
            each.title,
            justify=each.column.justify,
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
            width=max(_LEAST_FOLDED, min(each.width, room)) if folds else each.width,
        )
    for row in zip(*(each.cells for each in shown), strict=True):
        table.add_row(*row)
    return table
