"""The screen of `hivemind top`: totals above, as many nodes as there is room for below.

Knows rich; knows neither the connection nor click. Whatever a pool says goes through `one_line`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from hivemind.cli.render.nodes import ASCII_GLYPHS, GLYPHS, bar, gib_text, top_table
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import duration_text
from hivemind.nodes import Load, NodeInfo, NodeOrder, Totals, in_order, totals_of

_BAR_CELLS = 24
_NARROW_BELOW, _NARROW_BAR_CELLS = 72, 10
# The title of the table, and the line that says how many more there are.
_TABLE_EXTRA_LINES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The nodes at one moment. `problem` says why there is nothing newer."""

    nodes: tuple[NodeInfo, ...] = ()
    at: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopScreen:
    gateway: str
    snapshot: Snapshot
    order: NodeOrder
    now: float
    keys: str = ""  # what can be pressed
    live: bool = False  # has the terminal to itself: no prompt needs a line
    whole: bool = False  # every node, however many

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = options.max_width < _NARROW_BELOW
        glyphs = ASCII_GLYPHS if options.ascii_only else GLYPHS
        above = self._header(narrow, glyphs)
        below = [] if self.whole else [Text(), self._footer(glyphs, options.max_width)]
        height = options.size.height - (not self.live)
        room = max(0, height - len(above) - len(below) - _TABLE_EXTRA_LINES)
        ordered = in_order(self.snapshot.nodes, self.order)
        shown = ordered if self.whole else ordered[: room + 1 if len(ordered) == room + 1 else room]
        parts: list[RenderableType] = list(above)
        if shown:
            parts.append(top_table(shown, self.now, bars=not self.whole, glyphs=glyphs))
        if len(ordered) > len(shown):
            parts.append(Text(f"… and {len(ordered) - len(shown):,} more", "bright_black"))
        elif not ordered and not self.snapshot.problem:
            parts.append(Text("no node has joined the pool yet", "yellow"))
        yield Group(*parts, *below)

    def _header(self, narrow: bool, glyphs: Sequence[str]) -> list[Text]:  # noqa: FBT001
        totals = totals_of(self.snapshot.nodes)
        cells = _NARROW_BAR_CELLS if narrow else _BAR_CELLS
        lines = [self._title(), _counts(totals)]
        lines.append(_total("CPU", totals.cpu, cells, glyphs, _points))
        lines.append(_total("Memory", totals.memory, cells, glyphs, gib_text, " GiB"))
        if totals.gpu.capacity:
            lines.append(_total("GPU", totals.gpu, cells, glyphs, _points, measured=False))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return [*lines, Text()]

    def _title(self) -> Text:
        moment = f"{datetime.fromtimestamp(self.snapshot.at, UTC).astimezone():%H:%M:%S}"
        told = Text.assemble(("hivemind top", "bold"), f"  {one_line(self.gateway)}  {moment}")
        if self.snapshot.problem:
            age = duration_text(self.now - self.snapshot.at)
            told.append(f"  {age} old: {one_line(self.snapshot.problem)}", "bold red")
        return told

    def _footer(self, glyphs: Sequence[str], width: int) -> Text:
        legend = f"{glyphs[0]} used  {glyphs[1]} reserved  {glyphs[2]} free   by {self.order}"
        line = Text(legend + (f"   {self.keys}" if self.keys else ""), "bright_black", no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        return line


def _counts(totals: Totals) -> Text:
    line = Text.assemble((f"{totals.nodes:,} node" + ("" if totals.nodes == 1 else "s"), "bold"), ": ")
    line.append(f"{totals.online:,} online", "green" if totals.online else "")
    if totals.unfit:
        line.append(f" ({totals.unfit:,} unfit)", "yellow")
    line.append(f", {totals.draining:,} draining", "yellow" if totals.draining else "")
    line.append(f", {totals.offline:,} offline", "red" if totals.offline else "")
    line.append("   ")
    line.append(f"{totals.running_tasks:,} of {totals.max_tasks:,} tasks", "bold")
    return line


def _total(
    title: str,
    load: Load,
    cells: int,
    glyphs: Sequence[str],
    text: Callable[[int], str],
    unit: str = "",
    *,
    measured: bool = True,
) -> Text:
    line = Text.assemble(
        (f"{title:<8}", "bold"), bar(load, cells, glyphs), f" {load.reserved_share:4.0%} reserved"
    )
    line.append(f", {text(load.reserved)} of {text(load.capacity)}{unit}")
    return line.append(f"; {text(load.used)}{unit} used" if measured else "")


def _points(score: int) -> str:
    return f"{score:,}"
