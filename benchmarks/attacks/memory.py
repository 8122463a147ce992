"""How much memory each part of a pool has, at most, while something goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

PERIOD_SECONDS = 0.1
# In this order a command line is recognised: an agent's has the gateway's address in it.
_PARTS = (
    ("worker_agent", "agent"),
    ("dispatcher.flower", "Flower"),
    ("dispatcher", "dispatcher"),
    ("valkey", "Valkey"),
    ("gateway", "gateway"),
)


class Peaks:
    """Use in a `with` statement. `mib` is what a part and its children had at most, MiB, by name."""

    def __init__(self, processes: Callable[[], list[psutil.Process]]) -> None:
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.mib: dict[str, float] = {}

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(PERIOD_SECONDS):
            for name, size in measured(self._processes()).items():
                self.mib[name] = max(size, self.mib.get(name, 0.0))


def measured(processes: list[psutil.Process]) -> dict[str, float]:
    """The largest process of each part now, MiB."""
    found: dict[str, float] = {}
    for process in processes:
        try:
            name = _part(process)
            size = process.memory_info().rss / (1 << 20)
        except psutil.Error:
            continue
        if name:
            found[name] = max(size, found.get(name, 0.0))
    return found


def _part(process: psutil.Process) -> str:
    """The part that a process is of; the children of a part are the part's."""
    for one in (process, *process.parents()[:2]):
        words = one.cmdline()
        if "up" in words:  # `hivemind up` itself, and whoever started it
            return ""
        for word, name in _PARTS:
            if any(word in part.rpartition("/")[2] for part in words[:6]):
                return name
    return ""
