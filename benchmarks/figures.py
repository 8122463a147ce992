"""Figures, their statistics, and how they are shown. Measures nothing."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and the value that 99 of 100 stay under (for less than 100 samples: the largest)."""

    n: int
    median: float
    p99: float

    def __str__(self) -> str:
        return f"{self.median:.1f} (p99 {self.p99:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One comparison. `value` is what the aim is about; `rows` are the parts and yardsticks of the table."""

    name: str
    what: str
    unit: str
    n: int
    value: float
    aim: str
    met: bool
    pool: Spread | float
    yardsticks: dict[str, Spread | float]
    derived: dict[str, Spread | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FigureReport:
    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # cannot be had on this machine
    failed: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        content = {
            "machine": machine(),
            "figures": [asdict(figure) for figure in self.figures],
            "skipped": self.skipped,
            "failed": self.failed,
        }
        return json.dumps(content, indent=2) + "\n"


def spread(samples: Sequence[float]) -> Spread:
    """Raises ValueError when there are none."""
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return Spread(len(ordered), statistics.median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1])


def differences(these: Sequence[float], those: Sequence[float]) -> Spread:
    """Of samples taken in pairs."""
    return spread([this - that for this, that in zip(these, those, strict=True)])


def machine() -> dict[str, str | int]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def show(report: FigureReport, console: Console) -> None:
    facts = machine()
    console.print(
        f"\n{facts['processor']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}"
    )
    for figure in report.figures:
        table = Table(title=f"{figure.name}: {figure.what}", title_justify="left", min_width=100)
        table.add_column("what")
        table.add_column(figure.unit, justify="right")
        table.add_row("[bold]through the pool", _text(figure.pool))
        for name, value in figure.yardsticks.items():
            table.add_row(name, _text(value))
        table.add_section()
        for name, value in figure.derived.items():
            table.add_row(name, _text(value))
        verdict = "[green]met" if figure.met else "[red]not met"
        table.add_row(f"[bold]aim: {figure.aim} (n = {figure.n})", f"{_text(figure.value)} {verdict}")
        console.print(table)
        for note in figure.notes:
            console.print(f"  {note}")
    for reason in report.skipped:
        console.print(f"[yellow]not measured: {reason}")
    for reason in report.failed:
        console.print(f"[red]failed: {reason}")


def _text(value: Spread | float) -> str:
    if isinstance(value, Spread):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
