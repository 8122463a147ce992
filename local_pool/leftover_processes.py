"""Which process is which, over restarts: a pid file tells a pid and that process's birth.

A pid alone is not enough, since the number may have gone to somebody else's process by now.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from local_pool.private_files import write_private

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this machine's history. `birth` is opaque: equal for the same process only."""

    pid: int
    birth: str

    @property
    def is_alive(self) -> bool:
        return birth_of(self.pid) == self.birth


def birth_of(pid: int) -> str:
    """When the process began, exact on Linux (boot and clock tick); empty when there is none, or a zombie."""
    if sys.platform == "linux":
        try:
            # The command's name is in brackets and may hold anything, so fields are counted after it.
            fields = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            )
            state, started = fields.split()[0], fields.split()[19]
            return "" if state in "ZX" else f"{BOOT_ID.read_text().strip()}:{started}"
        except (OSError, IndexError):
            return ""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def write_pid_file(path: Path, pid: int) -> None:
    write_private(path, json.dumps({"pid": pid, "birth": birth_of(pid)}))


def read_pid_file(path: Path) -> ProcessId | None:
    """What the file tells, or None where there is no readable one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ProcessId(int(content["pid"]), str(content["birth"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def end_leftovers(
    pid_files: Iterable[Path], *, grace_seconds: float, clock: Callable[[], float] = time.monotonic
) -> list[str]:
    """Ends the processes that the files tell of and that still live: SIGTERM, after the grace SIGKILL.

    Returns the names (the files' stems) of those that lived; the files are removed.
    """
    living: dict[Path, ProcessId] = {}
    for path in pid_files:
        process = read_pid_file(path)
        if process is not None and process.birth and process.is_alive:
            living[path] = process
        else:
            path.unlink(missing_ok=True)
    for process in living.values():
        _send(process, signal.SIGTERM)
    deadline = clock() + grace_seconds
    while clock() < deadline and any(process.is_alive for process in living.values()):
        time.sleep(POLL_SECONDS)
    for path, process in living.items():
        if process.is_alive:
            _send(process, signal.SIGKILL)
        while process.is_alive:
            time.sleep(POLL_SECONDS)
        path.unlink(missing_ok=True)
    return sorted(path.stem for path in living)


def _send(process: ProcessId, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
