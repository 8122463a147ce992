"""How much room there is on the node's disks: whether a run may begin, and whether one was cut short.

A run is promised a working directory of a size. A node whose disk cannot hold one is unfit and says so; a
disk that fills all the same spoils what is written then, whatever a program makes of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_MIB = 1 << 20
# On small disks a part of them will do.
_SHARE, _LEAST_BYTES = 20, 16 * _MIB
_LEAST_INODES, _INODE_SHARE = 2048, 20
# Fit again with so much more, or a node at the brink would come and go.
_FIT_AGAIN = 1.25
# What is ended then leaves something for the node's other runs.
_LOW_SHARE = 4
_FULL_BYTES, _FULL_INODES = _MIB, 8
# What a run's limits say of a disk that runs low; the end of the run says whose fault it is.
LOW_DISK = "the node's disk ran low while the task filled it"


@dataclass(frozen=True, slots=True)
class Room:
    """Of one file system. Without inodes (`inodes` 0) it has as many as it likes."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    inodes: int

    @classmethod
    def of(cls, folder: Path) -> Room | None:
        """None for what cannot be asked."""
        try:
            found = os.statvfs(folder)
        except OSError:
            return None
        block = found.f_frsize or found.f_bsize
        # The agent may be root, its tasks are not.
        return cls(found.f_bavail * block, found.f_blocks * block, found.f_favail, found.f_files)

    @property
    def is_full(self) -> bool:
        inodes_gone = self.inodes > 0 and self.free_inodes < _FULL_INODES
        return inodes_gone or self.free_bytes < min(_FULL_BYTES, self.total_bytes // 64)


def needed_bytes(total_bytes: int, workdir_bytes: int) -> int:
    """What must be free so that a run may begin."""
    return max(_LEAST_BYTES, min(workdir_bytes, total_bytes // _SHARE))


class DiskHealth:
    """Whether runs may begin, by the room in these folders. For one thread."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._was_short: set[Path] = set()

    def problem(self, workdir_bytes: int) -> str:
        """Why none may, in a few words, or nothing."""
        found = ""
        for folder in self._folders:
            room = Room.of(folder)
            short = "" if room is None else self._short(room, folder, workdir_bytes)
            (self._was_short.add if short else self._was_short.discard)(folder)
            found = found or short
        return found

    def _short(self, room: Room, folder: Path, workdir_bytes: int) -> str:
        factor = _FIT_AGAIN if folder in self._was_short else 1.0
        needed = int(needed_bytes(room.total_bytes, workdir_bytes) * factor)
        inodes = int(max(2 * _FULL_INODES, min(_LEAST_INODES, room.inodes // _INODE_SHARE)) * factor)
        if room.total_bytes and room.free_bytes < needed:
            return (
                f"the node's disk is full: {room.free_bytes // _MIB} MiB are free in {folder.name or '/'}, "
                f"and {needed // _MIB} are needed"
            )
        if room.inodes and room.free_inodes < inodes:
            return f"the node's disk is full: {room.free_inodes} files more fit into {folder.name or '/'}"
        return ""


@dataclass(slots=True)
class DiskRoom:
    """The disk under one run, from its beginning to its end."""

    folder: Path
    workdir_bytes: int
    _at_start: Room | None = field(init=False)
    _least: Room | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._at_start = Room.of(self.folder)

    def is_low(self) -> bool:
        """Now; what was least is remembered."""
        room = Room.of(self.folder)
        if room is None:
            return False
        if self._least is None or (room.is_full and not self._least.is_full):
            self._least = room
        low = needed_bytes(room.total_bytes, self.workdir_bytes) // _LOW_SHARE
        return room.is_full or (room.total_bytes > 0 and room.free_bytes < low)

    def was_full(self) -> bool:
        self.is_low()
        return self._least is not None and self._least.is_full

    def filled_by(self, own_bytes: int) -> bool:
        """Whether most of what was free at the start has gone to this run."""
        return self._at_start is not None and 2 * own_bytes >= self._at_start.free_bytes > 0

    def words(self) -> str:
        free = self._at_start.free_bytes if self._at_start is not None else 0
        return f"{free // _MIB} MiB were free at its start and none later"
