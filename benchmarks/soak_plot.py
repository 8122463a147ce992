"""The picture of a soak: bytes and rows that the pool keeps, over the tasks that it has run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

_BYTES = {
    "storage_bytes": "packages, results, outputs",
    "agent_bytes": "the agent's folder",
    "broker_bytes": "broker's memory",
    "rows_bytes": "database, with the ledger",
}
_ROWS = {"tasks": "tasks", "attempts": "attempts", "ledger_entries": "ledger entries (kept)"}
_MIB = 1 << 20


def plot(path: Path, samples: Sequence[Any]) -> None:
    """As the path's ending says: SVG or PNG."""
    mpl.use("Agg")
    figure, (size, rows) = pyplot.subplots(1, 2, figsize=(12, 4.5), constrained_layout=True)
    done = [it.tasks_done for it in samples]
    for name, label in _BYTES.items():
        size.plot(done, [getattr(it, name) / _MIB for it in samples], label=label)
    for name, label in _ROWS.items():
        rows.plot(done, [getattr(it, name) for it in samples], label=label)
    size.set(ylabel="MiB", title="Bytes that are kept")
    rows.set(ylabel="rows", title="Rows that are kept")
    for axis in (size, rows):
        axis.set_xlabel("tasks that have ended")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)
