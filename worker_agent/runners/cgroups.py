"""Control groups for runs: memory, processes and time that the kernel counts, whatever a run does.

Version 2 wherever the agent may make groups (as root, or in a subtree delegated to it), else version 1
as root. What this machine allows is found by trying it. Without the memory controller there are none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker_agent.runners import proc
from worker_agent.runners.sandbox import MIN_CPUS, MIN_MEMORY_BYTES, name_slug

_PREFIX = "hivemind-"
_PERIOD_MICROSECONDS = 100_000
_MIN_QUOTA_MICROSECONDS = 1_000
_ROUNDS = 200
_ROUND_SECONDS = 0.01
_WANTED = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    memory_bytes: int
    processes: int
    cpus: float


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The groups of one run: one folder in version 2, one for each controller in version 1."""

    folders: dict[str, Path]
    unified: bool

    @property
    def join_files(self) -> tuple[str, ...]:
        # A thread that joins by itself need not wait for all others in the kernel, which costs tens of
        # milliseconds; version 2 has no such door.
        name = "cgroup.procs" if self.unified else "tasks"
        return tuple(str(folder / name) for folder in dict.fromkeys(self.folders.values()))

    @property
    def bounds_time(self) -> bool:
        return "cpu" in self.folders

    def limit(self, limits: GroupLimits) -> None:
        """Raises OSError."""
        memory, bytes_ = self.folders["memory"], str(max(limits.memory_bytes, MIN_MEMORY_BYTES))
        if self.unified:
            _write(memory / "memory.max", bytes_)
            _write_if_there(memory / "memory.swap.max", "0")
            _write_if_there(memory / "memory.oom.group", "1")
        else:
            _write(memory / "memory.limit_in_bytes", bytes_)
            _write_if_there(memory / "memory.swappiness", "0")
            _write_if_there(memory / "memory.memsw.limit_in_bytes", bytes_)
        if pids := self.folders.get("pids"):
            _write(pids / "pids.max", str(limits.processes))
        if cpu := self.folders.get("cpu"):
            quota = max(_MIN_QUOTA_MICROSECONDS, round(max(limits.cpus, MIN_CPUS) * _PERIOD_MICROSECONDS))
            if self.unified:
                _write(cpu / "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")
            else:
                _write(cpu / "cpu.cfs_period_us", str(_PERIOD_MICROSECONDS))
                _write(cpu / "cpu.cfs_quota_us", str(quota))

    def memory_bytes(self) -> int:
        """Without the part of the page cache that the kernel would drop, as containers are measured."""
        folder = self.folders["memory"]
        names = ("memory.current", "inactive_file") if self.unified else _V1_MEMORY
        with contextlib.suppress(OSError, ValueError):
            used = int((folder / names[0]).read_text())
            return max(0, used - _field(folder / "memory.stat", names[1]))
        return 0

    def ran_out_of_memory(self) -> bool:
        name = "memory.events" if self.unified else "memory.oom_control"
        return _field(self.folders["memory"] / name, "oom_kill") > 0

    def processes(self) -> list[int]:
        found: set[int] = set()
        for folder in set(self.folders.values()):
            with contextlib.suppress(OSError, ValueError):
                found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
        return sorted(found - {0})

    def end(self) -> bool:
        """Kill everything inside and take the groups away; False when something did not go."""
        pause = threading.Event()
        for _ in range(_ROUNDS):
            if self.unified:
                _write_if_there(self.folders["memory"] / "cgroup.kill", "1")
            for pid in self.processes():
                proc.send(pid, signal.SIGKILL)
                proc.bury(pid)
            for folder in set(self.folders.values()):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if not any(folder.exists() for folder in self.folders.values()):
                return True
            pause.wait(_ROUND_SECONDS)
        return False


_V1_MEMORY = ("memory.usage_in_bytes", "total_inactive_file")


class ControlGroups:
    """Where this agent's runs have their groups."""

    def __init__(self, bases: dict[str, Path], *, unified: bool) -> None:
        self._bases = bases
        self._unified = unified

    def __str__(self) -> str:
        return f"control groups, version {2 if self._unified else 1}: {', '.join(self._bases)}"

    def make(self, name: str, limits: GroupLimits) -> RunGroup:
        """Raises OSError."""
        slug = name_slug(name)
        group = RunGroup({key: base / slug for key, base in self._bases.items()}, self._unified)
        try:
            for folder in dict.fromkeys(group.folders.values()):
                folder.mkdir(exist_ok=True)
            group.limit(limits)
        except OSError:
            group.end()
            raise
        return group

    def end_left(self, keep: set[str]) -> int:
        """End what earlier lives of this agent left in its groups, but for these names."""
        names = {
            folder.name
            for base in self._bases.values()
            if base.is_dir()
            for folder in base.iterdir()
            if folder.is_dir()
        }
        left = names - {name_slug(name) for name in keep}
        for name in left:
            RunGroup({key: base / name for key, base in self._bases.items()}, self._unified).end()
        return len(left)

    def close(self) -> None:
        for base in dict.fromkeys(self._bases.values()):
            with contextlib.suppress(OSError):
                base.rmdir()


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of groups, and where this process is in it."""

    controllers: frozenset[str]  # empty: version 2
    top: Path
    own: Path


def find_groups(name: str, works: Callable[[ControlGroups], bool]) -> ControlGroups | None:
    """The first place in which a trial succeeds. `name` keeps agents on one machine apart."""
    found = hierarchies(
        Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text().splitlines()
    )
    for groups in _candidates(found, _PREFIX + name):
        with contextlib.suppress(OSError):
            if works(groups):
                return groups
        groups.close()
    return None


def hierarchies(mount_info: str, own_lines: list[str]) -> list[Hierarchy]:
    """From the texts of /proc/self/mountinfo and /proc/self/cgroup."""
    own = {frozenset(line.split(":", 2)[1].split(",")): line.split(":", 2)[2] for line in own_lines}
    found = []
    for line in mount_info.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if kind[0] == "cgroup2":
            controllers = frozenset({""})
        elif kind[0] == "cgroup":
            options = set(kind[2].split(","))
            controllers = next((key for key in own if key <= options and key != {""}), frozenset())
        else:
            continue
        if controllers not in own:
            continue
        inside = os.path.relpath(own[controllers], fields[3])
        top = Path(fields[4])
        # What is mounted may begin beside this process's group: then it is not there to be seen.
        place = top if inside.startswith("..") else top / inside
        found.append(Hierarchy(frozenset() if controllers == {""} else controllers, top, place))
    return found


def _candidates(found: list[Hierarchy], name: str) -> list[ControlGroups]:
    candidates = []
    for tree in found:
        if tree.controllers:
            continue
        for parent in dict.fromkeys((tree.own, tree.top)):
            with contextlib.suppress(OSError):
                if bases := _unified_bases(parent, name):
                    candidates.append(ControlGroups(bases, unified=True))
    old = {key: tree for tree in found for key in tree.controllers if key in _WANTED}
    if "memory" in old:
        bases = {key: tree.own / name for key, tree in old.items()}
        with contextlib.suppress(OSError):
            for key in list(bases):
                try:
                    bases[key].mkdir(exist_ok=True)
                except OSError:
                    del bases[key]
            if "memory" in bases:
                candidates.append(ControlGroups(bases, unified=False))
    return candidates


def _unified_bases(parent: Path, name: str) -> dict[str, Path]:
    """Empty when the memory controller cannot be had below this group. Raises OSError."""
    offered = set((parent / "cgroup.controllers").read_text().split())
    wanted = [key for key in _WANTED if key in offered]
    if "memory" not in wanted:
        return {}
    if not _enable(parent, wanted):
        # A group with processes of its own gives no controllers on. When they are this agent's alone it
        # can step aside; anybody else's stay where they are.
        others = set((parent / "cgroup.procs").read_text().split()) - {str(os.getpid())}
        if others:
            return {}
        aside = parent / f"{name}-agent"
        aside.mkdir(exist_ok=True)
        _write(aside / "cgroup.procs", "0")
        if not _enable(parent, wanted):
            return {}
    base = parent / name
    base.mkdir(exist_ok=True)
    return dict.fromkeys(wanted, base) if _enable(base, wanted) else {}


def _enable(folder: Path, controllers: list[str]) -> bool:
    """One write for each, so that one that cannot be had does not take the others away."""
    enabled = set((folder / "cgroup.subtree_control").read_text().split())
    for controller in controllers:
        if controller not in enabled:
            with contextlib.suppress(OSError):
                _write(folder / "cgroup.subtree_control", f"+{controller}")
    return set(controllers) <= set((folder / "cgroup.subtree_control").read_text().split())


def _write(path: Path, text: str) -> None:
    # Not write_text: it would make a file that is not there, and a control group has none to make.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_if_there(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        _write(path, text)


def _field(path: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
