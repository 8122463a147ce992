"""Counts what the kernel holds in memory for a run, where no control group does: buffers of sockets, tables
of pages, mappings. Linux only.

Of a socket's queue the receiver is told less than it takes, and nothing of one whose sender has gone, or of
connections that nobody took yet: what waits unread is called hidden.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
import termios
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_SYS_PIDFD_GETFD = 438
_SO_MEMINFO = 55
_RECEIVED, _SENDING, _QUEUED = 0, 2, 5  # in its answer
_MEMINFO = struct.Struct("=9I")
_MAX_SOCKETS = 20_000
_MAPPING_BYTES = 256  # of the kernel's own memory, each
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class KernelMemory:
    total_bytes: int = 0
    hidden: bool = False
    _sockets: set[int] = field(default_factory=set)


def held_for(pids: Collection[int], mappings: int) -> KernelMemory:
    found = KernelMemory(mappings * _MAPPING_BYTES)
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found.total_bytes += _page_tables(pid)
            _sockets(pid, found)
    return found


def of_machine() -> int:
    """Bytes of the kernel's own memory, whoever it is for: neither programs' nor files'."""
    amounts = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            amounts[name] = int(rest.split()[0]) << 10
    others = ("MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable")
    return amounts.get("MemTotal", 0) - sum(amounts.get(name, 0) for name in others)


def _page_tables(pid: int) -> int:
    with Path(f"/proc/{pid}/status").open(errors="replace") as lines:
        for line in lines:
            if line.startswith("VmPTE:"):
                return int(line.split()[1]) << 10
    return 0


def _sockets(pid: int, found: KernelMemory) -> None:
    process = -1
    try:
        for number, inode in _numbers(pid):
            if inode in found._sockets:
                continue
            if len(found._sockets) >= _MAX_SOCKETS:
                found.hidden = True
                return
            found._sockets.add(inode)
            process = process if process >= 0 else os.pidfd_open(pid)
            _add(process, number, found)
    finally:
        if process >= 0:
            os.close(process)


def _numbers(pid: int) -> Iterator[tuple[int, int]]:
    """Of its descriptors that are sockets, each with the socket's own number."""
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208  there may be thousands
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


def _add(process: int, number: int, found: KernelMemory) -> None:
    """A copy of the descriptor is asked, and closed again."""
    copy = _libc.syscall(
        ctypes.c_long(_SYS_PIDFD_GETFD), ctypes.c_int(process), ctypes.c_int(number), ctypes.c_uint(0)
    )
    if copy < 0:
        found.hidden = found.hidden or ctypes.get_errno() not in (errno.EBADF, errno.ESRCH)
        return
    try:
        with socket.socket(fileno=copy) as connection:
            told = _MEMINFO.unpack(connection.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
            unread = _unread(connection)
            found.total_bytes += told[_RECEIVED] + max(told[_SENDING], told[_QUEUED])
            if connection.family == socket.AF_UNIX:  # charged to the sender, who may have gone
                found.total_bytes += max(0, unread)
            found.hidden = found.hidden or told[_RECEIVED] > 0 or unread != 0
    except (OSError, struct.error):
        found.hidden = True


def _unread(connection: socket.socket) -> int:
    """Bytes that can be read now; -1 where it is connections that wait, and nobody tells how many."""
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return -1
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)
