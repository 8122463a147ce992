"""What a task could leave in its sandbox for the next one: removed where it can be, and looked for.

Stands before the text of `worker_agent.runners.warm_init` in the sandbox's own Python (3.8 and up): the
standard library only, and no import of ours.
"""
# ruff: noqa: PTH101, PTH106, PTH108, PTH112, PTH116, PTH123, PTH208, SIM105, UP031

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time

WORK = "/work"
_MAX_ENTRIES = 20000
# The kernel collects some of what nobody has any more a little later, such as sockets that hold each other.
_LOOKS_AGAIN, _PAUSE_SECONDS = 20, 0.02
_CALLS = {"x86_64": (315, 252), "aarch64": (275, 31)}  # sched_getattr, ioprio_get
_IPC_RMID = 0
_SYSV = {"shm": "shmctl", "msg": "msgctl", "sem": "semctl"}
_NET = (
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "raw",
    "raw6",
    "unix",
    "packet",
    "icmp",
    "netlink",
)
_library = ctypes.CDLL(None, use_errno=True)


def end_all() -> int:
    """Every process of the namespace but this one, at once: none outruns it by forking."""
    largest = 0
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            largest = max(largest, os.wait4(-1, 0)[2].ru_maxrss)
        except ChildProcessError:
            return largest


def cleaned(before: dict[str, object], cores: set[int]) -> str:
    """What of the last task is still there, in a few words, or nothing."""
    try:
        end_all()
        for kind in _SYSV:
            for number in system_v(kind):
                remove_system_v(kind, number)
        for folder in writable_folders():
            empty(folder, [_MAX_ENTRIES])
        os.sched_setaffinity(0, cores)
        left = difference(before, state())
        for _ in range(_LOOKS_AGAIN):
            if not left:
                break
            time.sleep(_PAUSE_SECONDS)
            left = difference(before, state())
    except (OSError, ValueError, RecursionError) as error:
        return "it could not be looked through: %s" % error
    return left


def difference(before: dict[str, object], after: dict[str, object]) -> str:
    """The first that is not as it was, in words."""
    for name, value in before.items():
        if after[name] != value:
            return "%s: %s, and %s at the beginning" % (name, str(after[name])[:150], str(value)[:150])
    return ""


def state() -> dict[str, object]:
    """All that a task could change for the next one."""
    found = {
        "processes": sorted(name for name in os.listdir("/proc") if name.isdigit()),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "limits": [resource.getrlimit(number) for number in range(16)],
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduling": scheduling(),
        "last to be ended": contents("/proc/self/oom_score_adj"),
        "processes that are counted": contents("/sys/fs/cgroup/pids.current"),
        "open sockets": {name: sockets(name) for name in _NET},
        "System V objects": {kind: system_v(kind) for kind in _SYSV},
    }
    for folder in writable_folders():
        there = os.statvfs(folder)
        mode = os.stat(folder)
        found[folder] = (
            sorted(os.listdir(folder)),
            there.f_blocks - there.f_bfree,
            there.f_files - there.f_ffree,
            (mode.st_mode, mode.st_uid, mode.st_gid),
            attributes(folder),
        )
    return found


def attributes(folder: str) -> list[str]:
    try:
        return sorted(os.listxattr(folder))
    except OSError:
        return []  # a file system without them


def scheduling() -> str:
    calls = _CALLS.get(os.uname().machine)
    if calls is None:
        return ""
    told = ctypes.create_string_buffer(64)
    nothing = ctypes.c_long(0)
    _library.syscall(ctypes.c_long(calls[0]), nothing, told, ctypes.c_long(64), nothing)
    turn = _library.syscall(ctypes.c_long(calls[1]), ctypes.c_long(1), nothing)
    return told.raw.hex() + " %d" % turn


def contents(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def sockets(name: str) -> object:
    """Without the column of the kernel's addresses, and of netlink only how many there are."""
    lines = contents("/proc/net/" + name).splitlines()[1:]
    return len(lines) if name == "netlink" else sorted(line.split(":", 1)[-1] for line in lines)


def system_v(kind: str) -> list[int]:
    lines = contents("/proc/sysvipc/" + kind).splitlines()[1:]
    return [int(line.split()[1]) for line in lines]


def remove_system_v(kind: str, number: int) -> None:
    control = getattr(_library, _SYSV[kind])
    if kind == "sem":
        control(number, 0, _IPC_RMID)
    else:
        control(number, _IPC_RMID, None)


def writable_folders() -> list[str]:
    """Where this user can make files, but for the working directory, which is emptied from outside."""
    found = set()
    with open("/proc/self/mounts") as lines:
        for line in lines:
            folder = line.split()[1].encode().decode("unicode_escape")
            inside = folder == WORK or folder.startswith((WORK + "/", "/proc", "/sys"))
            if (not inside and os.path.isdir(folder) and os.access(folder, os.W_OK)) or folder.startswith(
                WORK + "/"
            ):
                found.add(folder)
    return sorted(found)


def empty(folder: str, left: list[int]) -> None:
    """Bounded: who leaves more than that leaves the sandbox to be thrown away."""
    with os.scandir(folder) as entries:
        for entry in entries:
            left[0] -= 1
            if left[0] < 0:
                raise ValueError("more files than are worth removing")
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                empty(entry.path, left)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
