"""Counts what a run holds beyond the folders that it was given, where the kernel does not bound it.

A file that was deleted while it is open takes its room on the disk until it is closed, and memory has
files that never had a name. They are found through the descriptors and mappings of the run's processes.
What cannot be found like that (a descriptor on its way through a socket, a process that cannot be looked
into) is called hidden.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_MAX_DESCRIPTORS = 20_000
_MAX_MAPS_BYTES = 4 << 20
_MAX_ALL_MAPS_BYTES = 32 << 20
_MAX_SMAPS_LINES = 1_000_000  # some forty thousand mappings
_BLOCK_BYTES = 512
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_INODE_BYTES = 1024  # of memory for each file and folder, as the kernel counts them itself
_DELETED = " (deleted)"
_PRIVATE_TMPFS = ("tmp", "dev/shm")


@dataclass(slots=True)
class Held:
    """`disk` and `memory` are bytes of files without a name, by (device, inode)."""

    disk: dict[tuple[int, int], int] = field(default_factory=dict)
    memory: dict[tuple[int, int], int] = field(default_factory=dict)
    hidden: bool = False
    looked_at: int = 0
    mappings: int = 0
    maps_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())


def held_by(pids: Collection[int], disk_devices: Collection[int]) -> Held:
    held = Held()
    shared = {*disk_devices, *_devices(Path("/") / name for name in _PRIVATE_TMPFS)}
    for pid in pids:
        process = Path("/proc") / str(pid)
        # A /tmp of its own is bounded and counted as a whole.
        skipped = _devices(process / "root" / name for name in _PRIVATE_TMPFS) - shared
        try:
            _descriptors(process, set(disk_devices), skipped, held)
            _mappings(process, set(disk_devices), skipped, held)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            held.hidden = held.hidden or _lives(process)
    return held


def private_tmpfs_bytes(pids: Collection[int]) -> int:
    """What lies in the /tmp and /dev/shm that a sandbox made, seen through its processes."""
    used: dict[int, int] = {}
    ours = _devices(Path("/") / name for name in _PRIVATE_TMPFS)
    for pid in pids:
        for name in _PRIVATE_TMPFS:
            with contextlib.suppress(OSError):
                path = Path("/proc") / str(pid) / "root" / name
                device = path.stat().st_dev
                if device not in ours and device not in used:
                    there = os.statvfs(path)
                    pages = (there.f_blocks - there.f_bfree) * there.f_frsize
                    used[device] = pages + (there.f_files - there.f_ffree) * _INODE_BYTES
    return sum(used.values())


def used_on_disk(folder: Path) -> int:
    """Bytes used on the folder's file system, by whomever."""
    with contextlib.suppress(OSError):
        there = os.statvfs(folder)
        return (there.f_blocks - there.f_bfree) * there.f_frsize
    return 0


def shared_memory_of_machine() -> int:
    """Bytes of shared memory and tmpfs on the whole machine."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("Shmem:"):
                return int(line.split()[1]) << 10
    return 0


def resident_bytes(pids: Collection[int], files: Collection[tuple[int, int]]) -> int:
    """Memory with shared pages counted once, without what is mapped of these files. Slow: the kernel walks
    the page tables. Who has more mappings than any program needs is not worth more lines."""
    total, lines_left = 0, _MAX_SMAPS_LINES
    for pid in pids:
        try:
            bytes_, lines = _shares(Path("/proc") / str(pid), files, lines_left)
            lines_left -= lines
            total += bytes_ if lines_left > 0 else _resident(pid)
        except PermissionError:
            # It made itself one that cannot be looked into: all that is mapped is its own.
            total += _resident(pid)
        except (OSError, ValueError, IndexError):
            continue  # it has ended
    return total


def _shares(process: Path, files: Collection[tuple[int, int]], most_lines: int) -> tuple[int, int]:
    """Bytes, and how many lines were read for them."""
    total, number, counts = 0, 0, True
    # The kernel adds up by itself where nothing is left out, and for any number of mappings.
    with (process / ("smaps" if files else "smaps_rollup")).open(errors="replace") as lines:
        for number, line in enumerate(itertools.islice(lines, most_lines), 1):  # noqa: B007
            if counts and line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
            elif not line[0].isupper():
                rest = line.split(None, 5)[1:]
                counts = len(rest) < 4 or _named(rest[2], rest[3]) not in files
    return total, number


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


def _descriptors(process: Path, disk: set[int], skipped: set[int], held: Held) -> None:
    for name in os.listdir(process / "fd"):  # noqa: PTH208
        held.looked_at += 1
        if held.looked_at > _MAX_DESCRIPTORS:
            held.hidden = True
            return
        with contextlib.suppress(FileNotFoundError):
            status = (process / "fd" / name).stat()
            if stat.S_ISREG(status.st_mode):
                _add(status, disk, skipped, held)
            elif stat.S_ISSOCK(status.st_mode) and _carries(process / "fdinfo" / name):
                held.hidden = True


def _mappings(process: Path, disk: set[int], skipped: set[int], held: Held) -> None:
    most = min(_MAX_MAPS_BYTES, _MAX_ALL_MAPS_BYTES - held.maps_bytes)
    with (process / "maps").open(errors="replace") as file:
        text = file.read(most)
    held.hidden = held.hidden or len(text) == most
    held.maps_bytes += len(text)
    held.mappings += text.count("\n")
    for line in text.splitlines():
        if not line.endswith(_DELETED):
            continue
        span, _, _, device, inode, path = line.split(None, 5)
        key = _named(device, inode)
        if key in held.disk or key in held.memory or key[0] in skipped or _is_resident(path):
            continue
        try:
            _add((process / "map_files" / span).stat(), disk, skipped, held)
        except FileNotFoundError:
            continue
        except PermissionError:
            held.hidden = True


def _add(status: os.stat_result, disk: set[int], skipped: set[int], held: Held) -> None:
    if status.st_nlink or status.st_dev in skipped:
        return
    key = (status.st_dev, status.st_ino)
    if status.st_dev in disk:
        held.disk[key] = status.st_blocks * _BLOCK_BYTES
    elif os.major(status.st_dev) == 0:
        held.memory[key] = status.st_blocks * _BLOCK_BYTES


def _is_resident(path: str) -> bool:
    """Shared memory that can only be mapped: it is counted with the pages of its processes."""
    return path.startswith(("/dev/zero", "/SYSV"))


def _carries(fdinfo: Path) -> bool:
    """Whether a local socket has descriptors on their way."""
    with contextlib.suppress(OSError, ValueError):
        for line in fdinfo.read_text().splitlines():
            if line.startswith("scm_fds:"):
                return int(line.split()[1]) > 0
    return False


def _named(device: str, inode: str) -> tuple[int, int]:
    major, _, minor = device.partition(":")
    return os.makedev(int(major, 16), int(minor, 16)), int(inode)


def _devices(paths: Iterable[Path]) -> set[int]:
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            found.add(path.stat().st_dev)
    return found


def _lives(process: Path) -> bool:
    with contextlib.suppress(OSError):
        text = (process / "stat").read_text(errors="replace")
        return text[text.rfind(")") + 2 :][:1] not in {"Z", "X", ""}
    return False
