"""Reads the kernel's process table in /proc: trees, owners, start times, what a tree uses.

psutil reads the whole table to find one process's children; a run is looked at several times a
second, so only its own tree is read here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_MAX_TREE = 10_000
_PR_SET_CHILD_SUBREAPER = 36
_ENDED = frozenset("ZX")
_MAX_KNOWN = 10_000
_known_as_roots: set[int] = set()
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """CPU so far, with that of children already gone; memory now, shared pages counted in each process."""

    cpu_seconds: float
    memory_bytes: int


def boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process began, in ticks since boot: with the pid it names one process for good.

    None when it is over, though nobody has asked how it ended.
    """
    fields = _stat_fields(pid)
    return int(fields[19]) if fields and fields[0] not in _ENDED else None


def descendants(pid: int) -> list[int]:
    """Parents before their children; without `pid` itself."""
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < _MAX_TREE:
        below = _children(waiting.pop())
        found += below
        waiting += below
    return found


def tree_usage(pid: int) -> TreeUsage:
    ticks = pages = 0
    for member in (pid, *descendants(pid)):
        fields = _stat_fields(member)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
    return TreeUsage(ticks / _TICKS_PER_SECOND, pages * _PAGE_BYTES)


def processes_of_user(uid: int, *, with_zombies: bool = False) -> list[int]:
    """By who a process is, not by who owns its files in /proc: those are root's when it is not dumpable."""
    return [pid for pid in _all() if uid in _users(pid) and (with_zombies or not _is_zombie(pid))]


def processes_with(variable: str, value: str) -> list[int]:
    """Our own user's processes that were started with this in their environment."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _all():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def threads_of_user(uid: int) -> int:
    """What RLIMIT_NPROC counts."""
    count = 0
    for pid in _all():
        if uid in _users(pid):
            fields = _stat_fields(pid)
            count += int(fields[17]) if fields else 0
    return count


def adopt_orphans() -> None:
    """Processes whose parents below us are gone become our children, whom we can wait for."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(pid: int) -> None:
    """Take a zombie away if it is our child, and wait for nothing."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _all() -> Iterator[int]:
    for name in os.listdir(_PROC):  # noqa: PTH208  names are all that is asked for
        if name.isdigit():
            yield int(name)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(_PROC / str(pid) / "task"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                text = (_PROC / str(pid) / "task" / thread / "children").read_text()
                found += [int(child) for child in text.split()]
    return found


def _users(pid: int) -> set[int]:
    """Real, effective, saved and file system user."""
    if pid in _known_as_roots:
        return {0}
    with contextlib.suppress(OSError):
        owner = (_PROC / str(pid)).stat().st_uid
        if owner:
            return {owner}
    # Root's, or one that is not dumpable, whose files in /proc are root's whoever it is.
    with contextlib.suppress(OSError, ValueError):
        for line in (_PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            if line.startswith("Uid:"):
                users = {int(uid) for uid in line.split()[1:]}
                if users == {0} and os.geteuid():
                    _remember_roots(pid)
                return users
    return set()


def _remember_roots(pid: int) -> None:
    """Asked once each: most of a machine's processes are root's, and none becomes an ordinary agent's own.

    A number that is used again for one of ours counts one too few, once.
    """
    if len(_known_as_roots) >= _MAX_KNOWN:
        _known_as_roots.clear()
    _known_as_roots.add(pid)


def _is_zombie(pid: int) -> bool:
    fields = _stat_fields(pid)
    return not fields or fields[0] in _ENDED


def _stat_fields(pid: int) -> list[str]:
    """The fields after the name, which may hold blanks and brackets; empty when the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rfind(")") + 2 :].split()
