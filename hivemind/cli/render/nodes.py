"""How nodes look to people: the columns that `hivemind nodes` and `hivemind top` share.

Knows rich; knows neither the connection nor click. Whatever a pool says goes through `one_line`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from hivemind.cli.render.columns import Column, FittedTable, Form
from hivemind.cli.render.plain_text import one_line
from hivemind.cli.render.tasks import duration_text, status_text
from hivemind.nodes import UNFIT, Load, NodeInfo
from nodepool.domain.sizes import size_words

# Told apart by their shape as well: not every terminal, and not every eye, has colours.
GLYPHS = ("█", "▒", "░")
ASCII_GLYPHS = ("#", "=", ".")
_STATUS_GLYPHS = {"ONLINE": ("●", "+"), "DRAINING": ("◐", "~"), "OFFLINE": ("○", "-"), UNFIT: ("◌", "!")}
_BAR_CELLS, _SHORT_BAR_CELLS = 8, 6
_GPU_NAME_CHARACTERS = 14
_NODE_CHARACTERS = 18
_MOST_REMARKS = 20
_WHOLE = 1000  # a name is only broken when all the rest is gone
_PERCENT_CHARACTERS = 4
_MIB_PER_GIB = 1024
_TIGHT_SHARE, _FULL_SHARE = 0.7, 0.9
_FAIR_SUCCESS, _GOOD_SUCCESS = 0.7, 0.9
_SHORT_REGIONS = {"north-america": "n-america", "south-america": "s-america"}
_MAKERS = ("NVIDIA ", "GeForce ", "AMD ", "Radeon ", "Tesla ")

_NODES_COLUMNS = (
    *("NODE", "STATUS", "TIER", "REGION", "TASKS", "CPU", "MEMORY"),
    *("GPU", "HISTORY", "HOST CPU", "HOST MEM", "ISOLATION", "OWNER", "SEEN"),
)
_NODES_SHRINK = (
    *("SEEN", "HOST MEM", "HOST CPU", "ISOLATION", "OWNER", "CPU", "MEMORY", "HISTORY", "GPU"),
    *("STATUS", "REGION"),
    *("GPU", "CPU", "MEMORY", "REGION", "HISTORY", "TIER", "MEMORY", "CPU", "TASKS"),
)
_TOP_COLUMNS = (
    *("NODE", "STATUS", "TIER", "REGION", "LOAD", "TASKS", "CPU", "MEMORY"),
    *("GPU", "HOST CPU", "HOST MEM", "HISTORY"),
)
_TOP_SHRINK = (
    *("HISTORY", "CPU", "MEMORY", "HOST MEM", "HOST CPU", "GPU", "STATUS", "REGION", "NODE"),
    *("GPU", "HISTORY", "CPU", "MEMORY", "REGION", "TIER", "MEMORY", "CPU", "TASKS"),
)


def nodes_table(
    nodes: Sequence[NodeInfo], now: float, *, bars: bool, glyphs: Sequence[str] = GLYPHS
) -> FittedTable[NodeInfo]:
    """`bars`: for eyes; without them for a pipe, where amounts say all."""
    columns = _NodeColumns(now, bars, glyphs).columns()
    return FittedTable(nodes, [columns[name] for name in _NODES_COLUMNS], _NODES_SHRINK)


def top_table(
    nodes: Sequence[NodeInfo], now: float, *, bars: bool, glyphs: Sequence[str] = GLYPHS
) -> FittedTable[NodeInfo]:
    """One line a node."""
    columns = _NodeColumns(now, bars, glyphs).columns()
    return FittedTable(nodes, [columns[name] for name in _TOP_COLUMNS], _TOP_SHRINK, cut=bars)


def remarks(nodes: Sequence[NodeInfo]) -> list[str]:
    """What a node's row has no room for: why it gets no work, or not all of it."""
    found = []
    for node in nodes:
        if node.unfit and not node.offline:
            found.append(f"{one_line(node.node_id)} gets no work: {one_line(node.unfit)}")
        if node.largest_message_bytes > 0:
            most = size_words(node.largest_message_bytes)
            found.append(
                f"{one_line(node.node_id)} takes messages of at most {most}: larger packages go elsewhere"
            )
    if len(found) > _MOST_REMARKS:
        found[_MOST_REMARKS:] = [f"… and {len(found) - _MOST_REMARKS:,} more (--json has all)"]
    return found


def bar(load: Load, cells: int, glyphs: Sequence[str] = GLYPHS) -> Text:
    """What is used, what is reserved beyond that, and what is free. What there is at all is seen."""
    used = _cells(load.used_share, cells)
    reserved = max(0, _cells(load.reserved_share, cells) - used)
    return Text.assemble(
        (glyphs[0] * used, "red" if load.used_share >= _FULL_SHARE else "green"),
        (glyphs[1] * reserved, "yellow"),
        (glyphs[2] * (cells - used - reserved), "bright_black"),
    )


def gib_text(mebibytes: float) -> str:
    return f"{mebibytes / _MIB_PER_GIB:,.1f}".removesuffix(".0")


def share_text(share: float) -> Text:
    style = "" if share < _TIGHT_SHARE else "yellow" if share < _FULL_SHARE else "red"
    return Text(f"{share:.0%}", style)


@dataclass(frozen=True, slots=True)
class _NodeColumns:
    now: float
    bars: bool
    glyphs: Sequence[str]

    def columns(self) -> dict[str, Column[NodeInfo]]:
        columns: tuple[Column[NodeInfo], ...] = (
            Column("NODE", self._names(), folds_at=_WHOLE),
            Column("STATUS", (Form("STATUS", _status), Form("", self._status_glyph))),
            Column("TIER", (_said("TIER", _tier),)),
            Column("REGION", (_said("REGION", _region), _said("REGION", _short_region))),
            Column("LOAD", (Form("LOAD", _load),), "right"),
            Column(
                "TASKS", (_said("TASKS", lambda node: f"{node.running_tasks}/{node.max_tasks}"),), "right"
            ),
            Column("CPU", self._amounts("CPU", lambda node: node.cpu, str)),
            Column("MEMORY", self._amounts("MEMORY", lambda node: node.memory, gib_text, " GiB")),
            Column("GPU", (Form("GPU", self._gpu), Form("GPU", self._short_gpu))),
            Column("HISTORY", (Form("HISTORY", _history), Form("HIST", _short_history))),
            Column("HOST CPU", (Form("HOST CPU", lambda node: _measured(node, node.cpu_percent)),), "right"),
            Column(
                "HOST MEM", (Form("HOST MEM", lambda node: _measured(node, node.memory_percent)),), "right"
            ),
            Column("ISOLATION", (_said("ISOLATION", lambda node: node.isolation),)),
            Column("OWNER", (_said("OWNER", lambda node: node.owner),)),
            Column("SEEN", (_said("SEEN", self._seen),)),
        )
        return {column.name: column for column in columns}

    def _names(self) -> tuple[Form[NodeInfo], ...]:
        return (
            _said("NODE", lambda node: node.node_id),
            _said("NODE", lambda node: _middle_cut(one_line(node.node_id), _NODE_CHARACTERS)),
        )

    def _amounts(
        self, title: str, load_of: Callable[[NodeInfo], Load], text: Callable[[int], str], unit: str = ""
    ) -> tuple[Form[NodeInfo], ...]:
        def amounts(node: NodeInfo) -> Text:
            load = load_of(node)
            told = f"{text(load.reserved)}/{text(load.capacity)}{unit}"
            if self.bars:
                return Text.assemble(self._bar(node, load), f" {told}")
            return Text(f"{told}, {text(load.used)} used")

        def share(node: NodeInfo) -> Text:
            return _padded(share_text(load_of(node).reserved_share), _PERCENT_CHARACTERS)

        def bar_and_share(node: NodeInfo) -> Text:
            return Text.assemble(
                self._bar(node, load_of(node), _SHORT_BAR_CELLS), " ", _padded(share(node), 4)
            )

        return Form(title, amounts), Form(title, bar_and_share), Form(title[:3], share)

    def _bar(self, node: NodeInfo, load: Load, cells: int = _BAR_CELLS) -> Text:
        if node.offline:
            return Text("-" * cells, "bright_black")
        return bar(load, cells, self.glyphs)

    def _gpu(self, node: NodeInfo) -> Text:
        if not _has_gpu(node):
            return Text()
        told = Text(one_line(node.gpu_name) or "GPU")
        if self.bars:
            return Text.assemble(told, " ", self._bar(node, node.gpu))
        memory = f"{node.gpu_memory.reserved}/{node.gpu_memory.capacity} GiB"
        return Text.assemble(told, f" {node.gpu.reserved}/{node.gpu.capacity}, {memory}")

    def _short_gpu(self, node: NodeInfo) -> Text:
        if not _has_gpu(node):
            return Text()
        name = one_line(node.gpu_name) or "GPU"
        for maker in _MAKERS:
            name = name.replace(maker, "")
        told = Text(name)
        told.truncate(_GPU_NAME_CHARACTERS, overflow="ellipsis")
        return Text.assemble(told, " ", share_text(node.gpu.reserved_share))

    def _status_glyph(self, node: NodeInfo) -> Text:
        glyphs = _STATUS_GLYPHS.get(node.shown_status, ("?", "?"))
        return Text(glyphs[self.glyphs is ASCII_GLYPHS], status_text(node.shown_status).style)

    def _seen(self, node: NodeInfo) -> str:
        return f"{duration_text(self.now - node.last_heartbeat)} ago" if node.last_heartbeat else "never"


def _said(title: str, text: Callable[[NodeInfo], str]) -> Form[NodeInfo]:
    return Form(title, lambda node: Text(one_line(text(node))))


def _status(node: NodeInfo) -> Text:
    return status_text(node.shown_status)


def _tier(node: NodeInfo) -> str:
    if node.owner_only:
        return f"{node.trust_tier}, owner only"
    return f"{node.trust_tier}, on trial" if node.on_trial else node.trust_tier


def _region(node: NodeInfo) -> str:
    return node.region or node.location


def _short_region(node: NodeInfo) -> str:
    return _SHORT_REGIONS.get(node.region, _region(node))


def _load(node: NodeInfo) -> Text:
    return Text("-", "bright_black") if node.offline else share_text(node.load)


def _measured(node: NodeInfo, percent: float) -> Text:
    return Text("-", "bright_black") if node.offline else Text(f"{percent:.0f} %")


def _has_gpu(node: NodeInfo) -> bool:
    return bool(node.gpu_score or node.gpu_memory_gb)


def _history(node: NodeInfo) -> Text:
    """Success rate, speed beside what the score promises, and how many attempts say so."""
    if node.new and not node.on_probation:
        return _short_history(node)
    told = f"{node.success_rate:.0%} {node.relative_speed:.2f}x ({node.history_weight:.0f})"
    if node.on_probation:
        return Text.assemble(("probation", "red"), f" {told}")
    return Text(told, _short_history(node).style)


def _short_history(node: NodeInfo) -> Text:
    if node.on_probation:
        return Text("probation", "red")
    if node.new:
        return Text("new", "bright_black")
    good, fair = node.success_rate >= _GOOD_SUCCESS, node.success_rate >= _FAIR_SUCCESS
    return Text(f"{node.success_rate:.0%}", "green" if good else "yellow" if fair else "red")


def _cells(share: float, cells: int) -> int:
    if share <= 0:
        return 0
    return min(cells, max(1, round(share * cells)))


def _padded(text: Text, width: int) -> Text:
    return Text(" " * max(0, width - len(text.plain))) + text


def _middle_cut(text: str, characters: int) -> str:
    """Both ends say which it is: the owner before, a number behind."""
    if len(text) <= characters:
        return text
    head = characters // 2
    return f"{text[:head]}…{text[len(text) - (characters - head - 1) :]}"
