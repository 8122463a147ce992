"""What parts say of themselves to the supervisor (nodepool/watchdog.py), and who has been silent too long.

A datagram counts for the process that the kernel says it came from. Knows processes by their ids only, and
kills nobody.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nodepool import watchdog

# A unix socket's path has at most 107 bytes.
_LONGEST_PATH = 100
_MOST_READ = 500
_LONGEST_SIGN = 64
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
# Who listens was held up itself for so long: nobody was silent meanwhile.
_OWN_PAUSE_SECONDS = 2.0


class PartSigns:
    """For one thread, which calls `read` often."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        """`folder` is its owner's alone."""
        self._clock = clock
        self._folder: Path | None = None
        path = folder / "notify"
        if len(str(path).encode()) > _LONGEST_PATH:
            self._folder = Path(tempfile.mkdtemp(prefix="hivemind-"))
            path = self._folder / "notify"
        path.unlink(missing_ok=True)
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(self.address)
        self._heard: dict[int, float] = {}
        self._read_at = clock()

    def read(self) -> None:
        now = self._clock()
        if now - self._read_at > _OWN_PAUSE_SECONDS:
            self._heard = dict.fromkeys(self._heard, now)
        self._read_at = now
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        for _ in range(_MOST_READ):
            try:
                said, ancillary, _flags, _sender = self._socket.recvmsg(_LONGEST_SIGN, space)
            except OSError:
                return
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    self._take(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0], said, now)

    def _take(self, pid: int, said: bytes, now: float) -> None:
        if said == watchdog.STOPPING:
            self._heard.pop(pid, None)
        elif said == watchdog.READY or (said == watchdog.ALIVE and pid in self._heard):
            self._heard[pid] = now

    def note(self, pid: int) -> None:
        """A process that says nothing by itself has answered."""
        self._heard[pid] = self._clock()

    def silent_seconds(self, pid: int) -> float:
        """Since a process that was ready said that it works; 0 for one that has not got so far."""
        heard = self._heard.get(pid)
        return 0.0 if heard is None else self._clock() - heard

    def forget(self, pid: int) -> None:
        self._heard.pop(pid, None)

    def close(self) -> None:
        self._socket.close()
        with suppress(OSError):
            Path(self.address).unlink()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
