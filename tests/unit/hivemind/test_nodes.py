"""Nodes as values and as tables: loads, totals, orders, bars, and what stays at which width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from hivemind.cli.render.columns import Column, FittedTable, Form
from hivemind.cli.render.nodes import ASCII_GLYPHS, bar, nodes_table, remarks
from hivemind.cli.render.top_screen import Snapshot, TopScreen
from hivemind.nodes import Load, NodeInfo, NodeOrder, in_order, node_from_wire, totals_of
from nodepool.protocol import nodepool_pb2 as pb

NOW = 1_700_000_000.0


def node(name: str = "bob/pc", **fields: Any) -> NodeInfo:
    values: dict[str, Any] = {
        "status": "ONLINE", "trust_tier": "high", "region": "asia", "max_tasks": 8, "running_tasks": 2,
        "cpu_score": 4000, "capacity_cpu_score": 6000, "reserved_cpu_score": 3000, "used_cpu_score": 1500,
        "memory_gb": 16, "capacity_memory_mb": 16384, "reserved_memory_mb": 4096, "used_memory_mb": 1024,
        "cpu_percent": 12.3, "memory_percent": 45.6, "last_heartbeat": NOW - 3, "owner": "bob",
        "success_rate": 0.98, "relative_speed": 1.05, "history_weight": 41.0,
    }  # fmt: skip
    return node_from_wire(pb.WorkerNodeInfo(node_id=name, **values | fields))


def shown(renderable: RenderableType, width: int, height: int = 24, **options: Any) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, **options
    )
    console.print(renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert all(cell_len(line) <= width for line in lines), lines
    return lines


def screen(*nodes: NodeInfo, order: NodeOrder = NodeOrder.LOAD, **fields: Any) -> TopScreen:
    snapshot = Snapshot(nodes=nodes, at=NOW, problem=fields.pop("problem", ""))
    return TopScreen(gateway="pool:50051", snapshot=snapshot, order=order, now=NOW + 7, **fields)


# -- values -----------------------------------------------------------------------------------------


def test_a_node_has_every_field_of_the_protocol() -> None:
    names = set(pb.WorkerNodeInfo.DESCRIPTOR.fields_by_name)
    assert set(NodeInfo.__dataclass_fields__) == names


def test_a_node_of_an_older_pool_has_its_totals_as_capacity() -> None:
    old = node_from_wire(
        pb.WorkerNodeInfo(cpu_score=4000, memory_gb=16, gpu_score=7, gpu_memory_gb=24, reserved_memory_gb=2)
    )
    assert (old.capacity_cpu_score, old.capacity_memory_mb, old.reserved_memory_mb) == (4000, 16384, 2048)
    assert (old.capacity_gpu_score, old.capacity_gpu_memory_gb) == (7, 24)
    assert old.new


def test_numbers_that_are_none_are_nothing() -> None:
    odd = node(cpu_percent=float("nan"), history_weight=float("inf"), last_heartbeat=float("-inf"))
    assert (odd.cpu_percent, odd.history_weight, odd.last_heartbeat) == (0.0, 0.0, 0.0)


def test_the_load_is_the_fullest_resource() -> None:
    assert node().load == pytest.approx(0.5)
    assert node(reserved_memory_mb=16384).load == pytest.approx(1.0)
    assert node(running_tasks=8).load == pytest.approx(1.0)
    assert node(capacity_gpu_score=100, reserved_gpu_score=90).load == pytest.approx(0.9)
    assert node_from_wire(pb.WorkerNodeInfo()).load == 0.0


def test_totals_leave_out_what_is_offline() -> None:
    totals = totals_of(
        [node("a"), node("b", status="DRAINING"), node("c", status="OFFLINE"), node("d", status="?")]
    )
    assert (totals.nodes, totals.online, totals.draining, totals.offline) == (4, 1, 1, 1)
    assert (totals.running_tasks, totals.max_tasks) == (6, 24)
    assert totals.cpu == Load(4500, 9000, 18000)
    assert totals.memory == Load(3072, 12288, 49152)


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (NodeOrder.NAME, "a b c d"),
        (NodeOrder.LOAD, "b c a d"),
        (NodeOrder.TIER, "c a b d"),
        (NodeOrder.TASKS, "c b a d"),
    ],
)
def test_nodes_are_ordered_as_asked_and_what_is_offline_comes_last(order: NodeOrder, names: str) -> None:
    nodes = [
        node("d", status="OFFLINE", reserved_cpu_score=6000, running_tasks=8),
        node("c", reserved_cpu_score=4000, running_tasks=3),
        node("b", reserved_cpu_score=6000, trust_tier="low"),
        node("a", running_tasks=0, trust_tier="high"),
    ]
    assert [each.node_id for each in in_order(nodes, order)] == names.split()


# -- bars -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "drawn"),
    [
        (Load(0, 0, 100), "........"),
        (Load(25, 75, 100), "##====.."),
        (Load(50, 50, 100), "####...."),
        (Load(1, 2, 1000), "#......."),  # what there is at all is seen
        (Load(0, 1, 1000), "=......."),
        (Load(80, 20, 100), "######.."),  # more used than reserved
        (Load(500, 900, 100), "########"),
        (Load(3, 4, 0), "........"),
        (Load(-5, -9, 100), "........"),
    ],
)
def test_a_bar_shows_what_is_used_reserved_and_free(load: Load, drawn: str) -> None:
    assert bar(load, 8, ASCII_GLYPHS).plain == drawn


# -- tables that fit --------------------------------------------------------------------------------


def _column(name: str, *texts: str, **options: Any) -> Column[int]:
    from rich.text import Text

    return Column(name, tuple(Form(name, lambda _item, text=text: Text(text)) for text in texts), **options)


def test_columns_get_narrower_and_then_go_in_the_order_that_is_named() -> None:
    columns = [_column("A", "a" * 10), _column("B", "b" * 20, "b" * 5), _column("C", "c" * 10)]
    table = FittedTable([1], columns, ("B", "C", "B"))
    assert shown(table, 60)[1] == f"{'a' * 10}  {'b' * 20}  {'c' * 10}"
    assert shown(table, 43)[1] == f"{'a' * 10}  {'b' * 5}  {'c' * 10}"
    assert shown(table, 20)[1] == f"{'a' * 10}  {'b' * 5}"
    assert shown(table, 12)[1] == "a" * 10


def test_a_column_in_which_nothing_is_said_is_left_out() -> None:
    assert shown(FittedTable([1], [_column("A", "a"), _column("B", ""), _column("C", "c")]), 60) == [
        "A  C",
        "a  c",
    ]


def test_the_last_resort_is_to_go_on_below_or_to_cut() -> None:
    columns = [_column("A", "a" * 30, folds_at=30), _column("B", "b" * 5)]
    folded = [line.rstrip() for line in shown(FittedTable([1], columns), 22)[1:]]
    assert folded == [f"{'a' * 15}  bbbbb", "a" * 15]
    assert shown(FittedTable([1], columns, cut=True), 22)[1:] == [f"{'a' * 14}…  bbbbb"]


# -- nodes ------------------------------------------------------------------------------------------


def test_a_wide_terminal_shows_all_of_a_node() -> None:
    gpu = {"gpu_name": "RTX 4090", "gpu_score": 100, "capacity_gpu_score": 100, "reserved_gpu_score": 50}
    (title, line) = shown(nodes_table([node(**gpu)], NOW, bars=True), 200)
    assert title.split() == (
        [
            *("NODE", "STATUS", "TIER", "REGION", "TASKS", "CPU", "MEMORY", "GPU", "HISTORY"),
            *("HOST", "CPU", "HOST", "MEM", "OWNER", "SEEN"),
        ]
    )
    for part in (
        "bob/pc  ONLINE  high  asia", "2/8", "██▒▒░░░░ 3000/6000", "█▒░░░░░░ 4/16 GiB", "RTX 4090 ▒▒▒▒░░░░",
        "98% 1.05x (41)", "12 %", "46 %", "bob", "3.0 s ago",
    ):  # fmt: skip
        assert part in line


def test_a_pipe_gets_amounts_instead_of_bars() -> None:
    gpu = {"gpu_name": "RTX 4090", "capacity_gpu_score": 100, "gpu_score": 100, "reserved_gpu_score": 50}
    (_, line) = shown(nodes_table([node(**gpu)], NOW, bars=False), 240)
    for part in ("3000/6000, 1500 used", "4/16 GiB, 1 used", "RTX 4090 50/100, 0/0 GiB"):
        assert part in line
    assert "░" not in line


def test_80_columns_keep_what_matters() -> None:
    names = ("operator/agent-1", "operator/agent-2")
    lines = shown(nodes_table([node(name, region="north-america") for name in names], NOW, bars=True), 80)
    assert len(lines) == 3
    assert lines[0].split() == ["NODE", "TIER", "REGION", "TASKS", "CPU", "MEMORY", "HIST"]
    assert lines[1].split()[:5] == ["operator/agent-1", "●", "high", "north-america", "2/8"]
    assert lines[1].endswith("98%")


@pytest.mark.parametrize("width", [20, 30, 40, 60, 79, 100, 132])
def test_every_width_shows_every_node_by_its_whole_name(width: int) -> None:
    """Names go on below: one that is cut could not be used."""
    name = "somebody/" + "long" * 10
    lines = shown(nodes_table([node(name)], NOW, bars=True), width)[1:]
    assert "".join(line.split("  ")[0].strip() for line in lines) == name
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("fields", "wide"),
    [
        ({"history_weight": 0.5}, "new"),
        ({"success_rate": 0.5}, "50% 1.05x (41)"),
        ({"on_probation": True, "success_rate": 0.4, "history_weight": 5.0}, "probation 40% 1.05x (5)"),
    ],
)
def test_a_history_is_new_told_or_a_probation(fields: dict[str, Any], wide: str) -> None:
    assert wide in shown(nodes_table([node(**fields)], NOW, bars=True), 200)[1]
    assert wide.split(maxsplit=1)[0] in shown(nodes_table([node(**fields)], NOW, bars=True), 80)[1]


def test_a_pools_words_about_nodes_are_shown_and_not_obeyed() -> None:
    nasty = "x\x1b[2J\x07[red]\n"
    odd = node(nasty, status=nasty, trust_tier=nasty, region=nasty, owner=nasty, gpu_name=nasty, gpu_score=1)
    text = "\n".join(shown(nodes_table([odd], NOW, bars=True), 240) + shown(screen(odd, problem=nasty), 240))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]" in text


# -- top --------------------------------------------------------------------------------------------


def test_top_has_the_totals_above_and_the_nodes_below() -> None:
    lines = shown(
        screen(node("a/idle", reserved_cpu_score=0), node("b/busy"), node("c/away", status="OFFLINE")), 120
    )
    assert lines[0].startswith("hivemind top  pool:50051  ")
    assert lines[1] == "3 nodes: 2 online, 0 draining, 1 offline   4 of 16 tasks"
    assert lines[2].startswith("CPU     ██████░")
    assert lines[2].endswith(" 25% reserved, 3,000 of 12,000; 3,000 used")
    assert lines[3].endswith(" 25% reserved, 8 of 32 GiB; 2 GiB used")
    assert [line.split()[0] for line in lines[5:9]] == ["NODE", "b/busy", "a/idle", "c/away"]
    assert "50%" in lines[6]
    assert "░" not in lines[8]  # nobody knows how full it is
    assert "used  ▒ reserved" in lines[-1]


def test_a_gpu_total_is_shown_where_there_is_a_gpu() -> None:
    assert not any(line.startswith("GPU") for line in shown(screen(node()), 100))
    with_gpu = shown(screen(node(capacity_gpu_score=100, gpu_score=100, reserved_gpu_score=30)), 100)
    assert any(line.startswith("GPU") and line.endswith("30% reserved, 30 of 100") for line in with_gpu)


@pytest.mark.parametrize(("count", "height"), [(10_000, 24), (3, 24), (14, 24), (15, 24), (40, 12), (5, 4)])
@pytest.mark.parametrize("live", [True, False])
def test_top_shows_as_many_nodes_as_fit_and_says_how_many_more(
    count: int, height: int, *, live: bool
) -> None:
    lines = shown(
        screen(*(node(f"n/{number:05}") for number in range(count)), keys="q quit", live=live), 100, height
    )
    rows = [line for line in lines if line.startswith("n/")]
    more = [line for line in lines if "more" in line]
    room = height - (not live)
    assert len(lines) <= max(room, 9)
    if len(rows) < count:
        assert len(lines) == max(room, 8)
        assert more == [f"… and {count - len(rows):,} more"]
    else:
        assert more == []
    assert "q quit" in lines[-1]


def test_a_pipe_gets_every_node() -> None:
    lines = shown(screen(*(node(f"n/{number:03}") for number in range(100)), whole=True), 240)
    assert sum(line.startswith("n/") for line in lines) == 100


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120, 200])
def test_top_is_one_line_a_node_at_every_width(width: int) -> None:
    nodes = [node("somebody/" + "long" * 10 + str(number), region="north-america") for number in range(3)]
    lines = shown(screen(*nodes), width)
    assert len(lines) == 11
    if width >= 80:
        assert {"TIER", "REGION", "LOAD", "TASKS", "CPU", "MEMORY"} <= set(lines[5].split())


def test_top_says_that_the_pool_is_away_and_how_old_the_picture_is() -> None:
    lines = shown(screen(node(), problem="the pool cannot be reached"), 120)
    assert "7.0 s old: the pool cannot be reached" in lines[0]
    assert any(line.startswith("bob/pc") for line in lines)


def test_an_empty_pool_says_so() -> None:
    assert "no node has joined the pool yet" in shown(screen(), 80)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    class Ascii(io.StringIO):
        encoding = "ascii"

    console = Console(file=Ascii(), width=80, height=24, force_terminal=True, color_system=None)
    console.print(
        screen(node("bob/pc"), node("bob/away", status="OFFLINE"), node("bob/drains", status="DRAINING"))
    )
    assert console.file.getvalue().isascii()  # type: ignore[attr-defined]


def test_what_a_row_has_no_room_for_is_said_beneath() -> None:
    nodes = [node("a"), node("b", unfit="a full\x1b[31m disk"), node("c", largest_message_bytes=4 << 20)]
    said = remarks(nodes)
    assert len(said) == 2
    assert said[0].startswith("b gets no work: a full")
    assert "\x1b" not in said[0]
    assert said[1] == "c takes messages of at most 4 MiB: larger packages go elsewhere"
