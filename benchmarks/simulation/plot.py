"""The cost of a placement against the size of the fleet, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.simulation.engine import Engine

_INK, _GREY = "#222222", "#888888"
_COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")


def draw(engines: Sequence[Engine], path: Path) -> None:
    """Two panels, both with logarithmic axes."""
    mpl.use("Agg")
    ordered = sorted(engines, key=lambda engine: engine.nodes)
    nodes = [engine.nodes for engine in ordered]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    cost, decision = figure.subplots(1, 2)
    panels = (
        (cost, "Cost of a placement, many at once", "microseconds", {
            "with the reservation": [it.reserving.microseconds_each for it in ordered],
            "and SQL, from hint to message": [it.whole.microseconds_each for it in ordered],
        }),
        (decision, "One decision on its own, to its reservation", "milliseconds", {
            "median": [it.single.reserved.median for it in ordered],
            "99th percentile": [it.single.reserved.p99 for it in ordered],
        }),
    )  # fmt: skip
    for panel, title, unit, lines in panels:
        for (name, values), colour in zip(lines.items(), _COLOURS, strict=False):
            panel.loglog(nodes, values, marker="o", color=colour, label=name)
            for x, y in zip(nodes, values, strict=True):
                panel.annotate(
                    f"{y:.3g}", (x, y), textcoords="offset points", xytext=(0, 7), ha="center",
                    color=colour, fontsize=8,
                )  # fmt: skip
        panel.set_title(title, color=_INK)
        panel.set_xlabel("nodes")
        panel.set_ylabel(unit)
        panel.set_xticks(nodes, [f"{count:,}" for count in nodes])
        panel.minorticks_off()
        highest = max(max(values) for values in lines.values())
        lowest = min(min(values) for values in lines.values())
        panel.set_ylim(lowest / 3, highest * 3)
        panel.grid(visible=True, color=_GREY, alpha=0.25)
        panel.legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
