"""Hands out what concurrent runs must not share: unprivileged users, and cores."""

from __future__ import annotations

import fcntl
import math
import os
import pwd
import threading
from collections import Counter, deque
from pathlib import Path

import structlog

from worker_agent.runners import left_files
from worker_agent.runners.base import RunRefusedError

log = structlog.get_logger(__name__)


class UserPool:
    """One unprivileged user for each concurrent run.

    A user is locked across processes for as long as this pool lives: several agents on a machine must
    not share one, because everything that a user runs is killed when its run ends. One that has left
    something which cannot be removed is not used again while it is there.
    """

    def __init__(self, first_uid: int, count: int, lock_dir: Path) -> None:
        self._candidates = list(range(first_uid, first_uid + count))
        self._lock_dir = lock_dir
        self._locks: dict[int, int] = {}
        self._free: list[int] = []
        self._set_aside: set[int] = set()
        self._to_clear: set[int] = set()
        self._guard = threading.Lock()

    def acquire(self) -> int:
        """Raises RunRefusedError when all are taken."""
        with self._guard:
            if self._free:
                return self._free.pop()
            for uid in self._candidates:
                if uid not in self._locks and not _is_someone(uid) and self._try_lock(uid):
                    # Processes that no agent of this machine holds are somebody else's: leave them alone.
                    if not left_files.has_processes(uid) and not left_files.remove(uid):
                        return uid
                    self._unlock(uid)
            for uid in sorted(self._set_aside):
                if not left_files.remove(uid):
                    self._set_aside.discard(uid)
                    return uid
        raise RunRefusedError("all unprivileged users of this machine are taken by other runs")

    def release(self, uid: int, *, alone: bool) -> None:
        """After a run: all of its is gone before its user can be another's.

        One that was alone in namespaces of its own has left nothing outside of them.
        """
        left = "" if alone else left_files.remove(uid)
        with self._guard:
            if left:
                self._put_aside(uid, left)
            else:
                self._free.append(uid)

    def owns_or_locks(self, uid: int) -> bool:
        """Whether no other agent can be using this user. For leftovers, before this node runs any."""
        with self._guard:
            if uid in self._locks:
                return True
            if not self._try_lock(uid):
                return False
            self._to_clear.add(uid)
            return True

    def clear(self) -> None:
        """Take users back whose leftovers were ended."""
        with self._guard:
            waiting, self._to_clear = self._to_clear, set()
        for uid in waiting:
            self.release(uid, alone=False)

    def close(self) -> None:
        with self._guard:
            for uid in list(self._locks):
                self._unlock(uid)
            self._free.clear()
            self._set_aside.clear()
            self._to_clear.clear()

    def _put_aside(self, uid: int, left: str) -> None:
        self._set_aside.add(uid)
        log.warning(
            "a user of earlier runs is not used again while something of it is there",
            action="runner.user_set_aside",
            uid=uid,
            left=left,
        )

    def _try_lock(self, uid: int) -> bool:
        self._lock_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(
            self._lock_dir / str(uid), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._locks[uid] = lock
        return True

    def _unlock(self, uid: int) -> None:
        os.close(self._locks.pop(uid))


class ContainerUsers:
    """A user id for each container at a time: the kernel counts some of what it gives by user (watches of
    files, queues, buffers of pipes), and one run must not take what another is to have.

    Nothing of a container stays for the next of its user. When there are no more, runs share the last one.
    """

    def __init__(self, first_uid: int, count: int, *, begin_at: int) -> None:
        """Agents on one machine begin at different places."""
        self._last = first_uid + count - 1
        self._free = deque(range(first_uid, self._last))
        self._free.rotate(-begin_at)
        self._guard = threading.Lock()

    def acquire(self) -> int:
        with self._guard:
            return self._free.popleft() if self._free else self._last

    def release(self, uid: int) -> None:
        with self._guard:
            if uid != self._last:
                self._free.append(uid)


class CoreShares:
    """Which cores a run may use, the least used first: a process has no CPU quota of its own."""

    def __init__(self, cores: set[int]) -> None:
        self._runs_on = Counter(dict.fromkeys(cores, 0))
        self._guard = threading.Lock()

    def take(self, cpus: float) -> frozenset[int]:
        with self._guard:
            count = min(len(self._runs_on), max(1, math.ceil(cpus)))
            taken = frozenset(sorted(self._runs_on, key=lambda core: (self._runs_on[core], core))[:count])
            self._runs_on.update(taken)
            return taken

    def give_back(self, taken: frozenset[int]) -> None:
        with self._guard:
            self._runs_on.subtract(taken)


def _is_someone(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
