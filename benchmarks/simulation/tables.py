"""The findings of a simulation as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Spread, machine
from benchmarks.simulation.celery_flow import Flow
from benchmarks.simulation.engine import Engine, Placing
from benchmarks.simulation.life import Life
from benchmarks.simulation.packing import Packing
from benchmarks.simulation.reports import Reports
from benchmarks.simulation.result import Result

_Rows = list[tuple[str, str]]


def show(result: Result, console: Console) -> None:
    facts = machine()
    console.print(
        f"\n{facts['processor']}, {facts['cores']} cores, load {result.load[0]:.1f} to {result.load[1]:.1f}, "
        f"Python {facts['python']}; seed {result.seed}"
    )
    if result.engines:
        console.print(_engine_table(result.engines))
    for title, rows in _sections(result):
        table = Table(title=title, title_justify="left", min_width=100, show_header=False)
        table.add_column("what")
        table.add_column("value", justify="right")
        for what, measured in rows:
            table.add_row(what, measured)
        console.print(table)
    table = Table(title="aims", title_justify="left", min_width=100)
    for column in ("what", "measured", "aim", ""):
        table.add_column(column, justify="left" if column in {"what", ""} else "right")
    for what, value, aim, met in result.aims():
        table.add_row(what, _number(value), aim, "[green]met" if met else "[red]not met")
    console.print(table)
    for line in (*result.violations.examples, *result.failed):
        console.print(f"[red]{line}")


def _engine_table(engines: Sequence[Engine]) -> Table:
    table = Table(title="one dispatcher's engine", title_justify="left", min_width=100)
    table.add_column("nodes")
    for engine in engines:
        table.add_column(f"{engine.nodes:,}", justify="right")

    def row(what: str, text: Callable[[Engine], str]) -> None:
        table.add_row(what, *(text(engine) for engine in engines))

    row("placed / different requests", lambda it: f"{it.reserving.placed:,} / {it.reserving.requirements}")
    row("[bold]placements/s, reserved in Redis, without SQL", lambda it: _number(it.reserving.per_second))
    for part in engines[0].reserving.parts:
        row(f"  {part}, us each", partial(_each, run="reserving", part=part))
    row("  CPU, us each", lambda it: _number(it.reserving.cpu_microseconds_each))
    row(
        "  placements/s where no two ask for the same",
        lambda it: _number(it.distinct.per_second) if it.distinct else "",
    )
    row("[bold]placements/s, hints to messages, SQL committed", lambda it: _number(it.whole.per_second))
    for part in engines[0].whole.parts:
        row(f"  {part}, us each", partial(_each, run="whole", part=part))
    row("  CPU, us each", lambda it: _number(it.whole.cpu_microseconds_each))
    row("[bold]one decision to its reservation, ms", lambda it: _ms(it.single.reserved))
    row("  worst, ms", lambda it: _number(it.single.worst))
    row("  to SQL committed and the node told, ms", lambda it: _ms(it.single.committed))
    row("  arriving beside looks at the fleet, ms", lambda it: _ms(it.arriving) if it.arriving else "")
    return table


def _each(engine: Engine, run: str, part: str) -> str:
    placing: Placing = getattr(engine, run)
    return _number(1e6 * placing.parts[part] / placing.placed) if placing.placed else ""


def _sections(result: Result) -> Iterator[tuple[str, _Rows]]:
    if (life := result.life) is not None:
        yield "tasks come and end, nodes vanish and come back", _life_rows(life)
    if (ageing := result.ageing) is not None:
        bounds = ageing.bounds
        waits = [
            (f"a {tier} task waited, s (at most {bounds[tier]:.0f})", _number(waited))
            for tier, waited in ageing.waited.items()
        ]
        yield "a pool that high tasks always fill, on a clock that is moved", waits
    if (flow := result.flow) is not None:
        title = f"through Celery: {flow.hints:,} hints, {flow.nodes:,} nodes, dispatchers: {flow.dispatchers}"
        yield title, _flow_rows(flow)
    if (reports := result.reports) is not None:
        title = f"{reports.nodes:,} nodes report every {reports.period_seconds:g} s"
        yield f"{title}, {reports.attempts:,} attempts run", _report_rows(reports)
    if result.packing is not None:
        yield "packing of the engine's fleet", _packing_rows(result.packing)
    for brim in result.brims:
        placed = [("placed, in seconds", f"{brim.placed:,}, {brim.seconds:.1f}")]
        violations = [("violations", str(brim.violations.total()))]
        yield (
            f"to the brim, dispatcher processes: {brim.dispatchers}",
            [*placed, *_packing_rows(brim.packing), *violations],
        )


def _life_rows(life: Life) -> _Rows:
    lost = f"{life.nodes_lost:,}, {life.attempts_lost:,}"
    return [
        ("tasks that came / ended", f"{life.came:,} / {life.ended:,}"),
        ("nodes that vanished, attempts lost with them", lost),
        ("placed meanwhile", f"{life.placed:,}"),
        ("waiting at the end", f"{life.waiting:,}"),
        ("violations", str(life.violations.total())),
    ]


def _flow_rows(flow: Flow) -> _Rows:
    cpu = f"{flow.cpu_ms_each:.2f} / {flow.bare_cpu_ms_each:.2f}"
    return [
        ("[bold]placements/s, hints laid to messages in the nodes' queues", _number(flow.placements_per_s)),
        ("  of them handed over by Celery one by one, the rest taken many at once", f"{flow.taken_singly:,}"),
        ("bare Celery, the same messages to a task that does nothing, /s", _number(flow.bare_per_s)),
        ("CPU of the worker processes, ms each: dispatcher / bare", cpu),
    ]


def _report_rows(reports: Reports) -> _Rows:
    detection = f"{reports.detection.median:.2f} (worst {reports.detection_worst:.2f})"
    sweeps = f"a sweep, ms ({reports.sweeps} in {reports.watched_seconds:.0f} s)"
    return [
        ("[bold]CPU of the sweep's thread, share of a core", f"{reports.sweep_cpu_share:.3f}"),
        ("CPU of the process: sweep, placement loop, database", f"{reports.process_cpu_share:.3f}"),
        ("CPU of Valkey", f"{reports.redis_cpu_share:.3f}"),
        (sweeps, _number(reports.sweep_ms)),
        ("a silent node's attempts are lost after, s", detection),
        ("its tasks are placed elsewhere after, s", f"{reports.replaced.median:.2f}"),
    ]


def _packing_rows(packing: Packing) -> _Rows:
    used = ", ".join(f"{name} {share:.2f}" for name, share in packing.used.items())
    return [
        (f"[bold]used of the bound, mean of {', '.join(packing.scarce)}", f"{packing.share:.3f}"),
        ("used of the capacity", used),
    ]


def _ms(spread: Spread) -> str:
    return f"{spread.median:.2f} (p99 {spread.p99:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
