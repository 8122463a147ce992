"""Watches runs while they run: their time, the size of their working directory, their memory.

One thread for all runs of a runner. What is found goes to the run, which ends itself; nothing is
ended here.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from nodepool.domain.tasks.reasons import ReasonCode
from worker_agent.runners import counting, kernel_memory
from worker_agent.runners.base import RunRefusedError, Usage
from worker_agent.runners.disk_room import LOW_DISK, DiskRoom

MAX_WORKDIR_ENTRIES = 200_000
MAX_WORKDIR_DEPTH = 100
_IDLE_SECONDS = 3600.0
# A folder with many files takes long to add up: no more than this share of the time goes there.
_WALK_SHARE = 0.1
_WALK_SECONDS = 0.5
# What is on its way between processes is soon there, and others write to the disk as well.
_LOOKS = 3
_OTHERS_BYTES = 64 << 20
# A disk that fills by this part of what a run may write is reason to look before it is time to.
_HASTY_SHARE = 0.25
# Compressed swap and drivers are in the kernel's memory, too.
_OTHERS_KERNEL_BYTES = 256 << 20
_MEMORY_SHARE = 0.25  # of the time, for looking at one run's memory


class Watcher:
    """Calls every tick again after the number of seconds that it returned, until it returns None.

    Ticks must not block, nor raise.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._due: list[tuple[float, int, Callable[[], float | None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, tick: Callable[[], float | None], after_seconds: float) -> None:
        with self._changed:
            due = time.monotonic() + after_seconds
            heapq.heappush(self._due, (due, next(self._order), tick))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            elif self._due[0][0] == due:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while tick := self._next():
            after_seconds = tick()
            if after_seconds is not None:
                self.add(tick, after_seconds)

    def _next(self) -> Callable[[], float | None] | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - now if self._due else _IDLE_SECONDS)
            return None


@dataclass(slots=True)
class WatchLimits:
    """What every runner watches alike; `check` says what is wrong, or nothing."""

    folders: tuple[Path, ...]  # the working directory, and what else the run can write to on disk
    max_run_seconds: int
    max_workdir_bytes: int
    # Those of the run, whose open files count; None: not known, or not on this machine.
    processes: Callable[[], Collection[int] | None] = tuple
    started: float = field(default_factory=time.monotonic)
    _next_walk: float = 0.0
    at_once: bool = False  # what `check` said must end before it has taken more
    _used_at_look: int = 0
    # Of the disk as a whole, since the last look at which nothing was hidden; and what the run had then.
    _lowest: int = 0
    _highest: int = 0
    _known_bytes: int = 0
    _looks_at_hidden: int = 0
    _ended_for_disk: bool = False
    _disk: DiskRoom = field(init=False)

    def __post_init__(self) -> None:
        self._disk = DiskRoom(self.folders[0], self.max_workdir_bytes)
        self._lowest = self._highest = self._used_at_look = counting.used_on_disk(self.folders[0])

    def check(self) -> str:
        now = time.monotonic()
        if now - self.started > self.max_run_seconds:
            return f"the task ran longer than {self.max_run_seconds} seconds"
        if self._disk.is_low() and self._disk.filled_by(self._own_bytes()):
            # Before nothing is left for the node's other runs. Whose fault it is, `lacking_disk` says.
            self.at_once = self._ended_for_disk = True
            return LOW_DISK
        used = counting.used_on_disk(self.folders[0])
        self._lowest, self._highest = min(self._lowest, used), max(self._highest, used)
        # Looking costs much, and asking how full the disk is next to nothing.
        if now < self._next_walk and used - self._used_at_look < self.max_workdir_bytes * _HASTY_SHARE:
            return ""
        self._used_at_look = used
        problem = self._disk_problem()
        self.at_once = bool(problem)
        seconds = time.monotonic() - now
        self._next_walk = now + seconds + max(_WALK_SECONDS, seconds / _WALK_SHARE)
        return problem

    def _own_bytes(self) -> int:
        seen = look_into(self.folders, self.max_workdir_bytes)
        return self.max_workdir_bytes if seen.problem else seen.total_bytes

    def lacking_disk(self) -> RunRefusedError | None:
        """Where the node's disk was full at some moment of the run, or is now; before its folders go."""
        if not (self._disk.was_full() or self._ended_for_disk):
            return None
        if self._ended_for_disk or self._disk.filled_by(self._own_bytes()):
            words = f"the node has too little disk: {self._disk.words()} while the task ran"
            return RunRefusedError(words, ReasonCode.TOO_LITTLE_DISK)
        words = f"the node's disk was full while the task ran: {self._disk.words()}"
        return RunRefusedError(words, ReasonCode.DISK_FULL)

    def seconds_left(self) -> float:
        return self.started + self.max_run_seconds - time.monotonic()

    def _disk_problem(self) -> str:
        devices = _devices(self.folders)
        processes = self.processes()
        held = counting.held_by(processes or (), devices)
        seen = look_into(self.folders, self.max_workdir_bytes, held.disk_bytes)
        if seen.problem or processes is None:
            return seen.problem
        if not (held.hidden or seen.hidden):
            self._lowest = self._highest = self._used_at_look
            self._known_bytes = seen.total_bytes
            self._looks_at_hidden = 0
            return ""
        self._looks_at_hidden += 1
        room = self.max_workdir_bytes - self._known_bytes
        if self._looks_at_hidden >= _LOOKS and self._highest - self._lowest > room + _OTHERS_BYTES:
            return (
                f"the disk filled by more than the task may have ({self.max_workdir_bytes} bytes) while "
                "it kept files where they cannot be counted: in closed folders, or open and without a name"
            )
        return ""


@dataclass(slots=True)
class CountedMemory:
    """Whether a run uses more memory than it may, where no control group counts it."""

    limit_bytes: int
    _shared_before: int = field(default_factory=counting.shared_memory_of_machine)
    _kernel_before: int = field(default_factory=kernel_memory.of_machine)
    _looks_at_hidden: int = 0
    _next_look: float = 0.0
    _used_at_look: int = 0

    def is_over(self, processes: Collection[int], usage: Usage) -> bool:
        now = time.monotonic()
        # A run can make looking at it dear, and one thread looks at all of them.
        hasty = usage.memory_bytes - self._used_at_look > self.limit_bytes * _HASTY_SHARE
        if now < self._next_look and not hasty:
            return False
        over = self._look(processes, usage)
        self._used_at_look = usage.memory_bytes
        seconds = time.monotonic() - now
        self._next_look = now + seconds / _MEMORY_SHARE
        return over

    def _look(self, processes: Collection[int], usage: Usage) -> bool:
        held = counting.held_by(processes, ())
        kernel = kernel_memory.held_for(processes, held.mappings)
        files = held.memory_bytes + counting.private_tmpfs_bytes(processes) + kernel.total_bytes
        if files > self.limit_bytes:
            return True
        # Shared pages were counted once for each process: look closer before ending a run for it.
        if usage.memory_bytes + files > self.limit_bytes:
            resident = counting.resident_bytes(processes, held.memory.keys())
            if resident + files > self.limit_bytes:
                return True
        hidden = held.hidden or kernel.hidden
        self._looks_at_hidden = self._looks_at_hidden + 1 if hidden else 0
        return self._looks_at_hidden >= _LOOKS and self._machine_grew()

    def _machine_grew(self) -> bool:
        shared = counting.shared_memory_of_machine() - self._shared_before
        kernel = kernel_memory.of_machine() - self._kernel_before
        return shared > self.limit_bytes or kernel > self.limit_bytes + _OTHERS_KERNEL_BYTES


@dataclass(frozen=True, slots=True)
class Look:
    """`problem`: what is too much in the folders; `hidden`: not everything in them could be counted."""

    problem: str
    hidden: bool
    total_bytes: int = 0


def look_into(folders: tuple[Path, ...], max_bytes: int, besides: int = 0) -> Look:
    """All folders together, and `besides`. Holes in files count: packing them takes time."""
    total, entries, hidden = besides, 0, False
    if total > max_bytes:
        return Look(f"the task kept more than {max_bytes} bytes in open files that it had deleted", False)
    waiting = [(str(folder), 0) for folder in folders]
    while waiting:
        folder, depth = waiting.pop()
        if depth > MAX_WORKDIR_DEPTH:
            return Look(
                f"the working directory has folders nested more than {MAX_WORKDIR_DEPTH} deep", hidden
            )
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    entries += 1
                    size = _size(entry, waiting, depth)
                    total += size
                    if total > max_bytes:
                        return Look(f"the working directory grew over {max_bytes} bytes", hidden)
                    if entries > MAX_WORKDIR_ENTRIES:
                        return Look(
                            f"the working directory has more than {MAX_WORKDIR_ENTRIES} files", hidden
                        )
        except PermissionError:
            hidden = True
        except OSError:
            continue  # gone: by the next look it may be there again
    return Look("", hidden, total)


def _devices(folders: tuple[Path, ...]) -> set[int]:
    found = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found.add(folder.stat().st_dev)
    return found


def _size(entry: os.DirEntry[str], waiting: list[tuple[str, int]], depth: int) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        waiting.append((entry.path, depth + 1))
    return max(status.st_size, status.st_blocks * 512)
