"""What a user of ours has left on the machine: processes, shared memory, queues and files. Root only.

A user is given to the next run only when nothing of the last one's is there: it would count against the next
one's limits, or be readable by it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from worker_agent.runners import orphans, proc
from worker_agent.trash import remove_tree

# Where any user of a machine may make files.
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock", "/var/lock")  # noqa: S108
_MAX_ENTRIES = 20_000
_MAX_DEPTH = 4
_IPC_RMID = 0
# The kernel's tables of System V objects, and the columns of their id, owner and maker.
_SYSV = {"shm": ("shmid", "shmctl"), "msg": ("msqid", "msgctl"), "sem": ("semid", "semctl")}
_SYSV_FOLDER = Path("/proc/sysvipc")


def remove(uid: int) -> str:
    """End and remove all of it; what could not be, in a few words, or nothing."""
    orphans.end_user(uid)
    for kind, number in _sysv_objects(uid):
        _remove_sysv(kind, number)
    for path in list(_files(uid)):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR(path.lstat().st_mode):
                remove_tree(path)
            else:
                path.unlink()
    return remains(uid)


def has_processes(uid: int) -> bool:
    return bool(proc.processes_of_user(uid, with_zombies=True))


def remains(uid: int) -> str:
    """What is left of a user, in a few words, or nothing."""
    if pids := proc.processes_of_user(uid, with_zombies=True):
        for pid in pids:
            proc.bury(pid)
        if pids := proc.processes_of_user(uid, with_zombies=True):
            return f"process {pids[0]}"
    for kind, number in _sysv_objects(uid):
        return f"System V {kind} {number}"
    for path in _files(uid):
        return str(path)
    return ""


def _files(uid: int) -> Iterator[Path]:
    """Files of the user in shared folders, and in what others made there for everybody."""
    waiting = [(Path(folder), 0) for folder in _SHARED_FOLDERS]
    seen: set[tuple[int, int]] = set()
    entries = 0
    while waiting:
        folder, depth = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            there = folder.stat()
            if (there.st_dev, there.st_ino) in seen:
                continue
            seen.add((there.st_dev, there.st_ino))
            for entry in found:
                entries += 1
                if entries > _MAX_ENTRIES:
                    return
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == uid:
                    yield Path(entry.path)
                elif stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH and depth < _MAX_DEPTH:
                    waiting.append((Path(entry.path), depth + 1))


def _sysv_objects(uid: int) -> Iterator[tuple[str, int]]:
    for kind, (column, _) in _SYSV.items():
        with contextlib.suppress(OSError, ValueError):
            header, *lines = (_SYSV_FOLDER / kind).read_text().splitlines()
            names = header.split()
            for line in lines:
                fields = dict(zip(names, line.split(), strict=False))
                if str(uid) in (fields.get("uid"), fields.get("cuid")):
                    yield kind, int(fields[column])


def _remove_sysv(kind: str, number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        control = getattr(ctypes.CDLL(None), _SYSV[kind][1])
        if kind == "sem":
            control(number, 0, _IPC_RMID)
        else:
            control(number, _IPC_RMID, None)
