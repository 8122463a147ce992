"""Removes what a task left behind, however it is built, in little memory and without going deep.

Folders within folders are moved up to the top and emptied there one by one: no path gets long, nothing is
recursive, and modes that forbid looking are no hindrance. Nothing is followed. Imports the standard library
only, and is run as a program of its own for what is large: `python clearing.py FOLDER`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from dataclasses import dataclass, field

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A folder with a project quota of its own cannot be moved out of it, and is a top of its own.
_MAX_TOPS = 8
_RESTED_STEPS = 2000
_NICENESS = 19


@dataclass(slots=True)
class Clearing:
    """Empties one folder, in pieces of so many entries as are asked for."""

    top: int  # a descriptor
    tops: int = 1
    problem: str = ""  # what could not be removed at the last look, and why
    _moved: int = 0
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))

    def go(self, steps: int) -> bool:
        """True when nothing is left, False when there is more; `problem` says when more looks are in vain."""
        while steps > 0:
            self.problem = ""
            seen = removed = 0
            with os.scandir(self.top) as entries:
                for entry in entries:
                    seen += 1
                    taken, gone = self._remove(entry, steps)
                    steps -= taken
                    removed += taken if gone else taken - 1
                    if steps <= 0:
                        return False
            if not seen:
                return True
            if removed <= 0:
                return False
        return False

    def _remove(self, entry: os.DirEntry[str], steps: int) -> tuple[int, bool]:
        """How many entries were looked at, and whether this one has gone."""
        if not entry.is_dir(follow_symlinks=False):
            return 1, self._tried(lambda: os.unlink(entry.name, dir_fd=self.top), entry.name)
        try:
            folder = _open(entry.name, self.top)
        except OSError as error:
            self._cannot(entry.name, error)
            return 1, False
        try:
            taken = self._flatten(folder, steps)
        finally:
            os.close(folder)
        if taken >= steps:
            return taken + 1, True
        return taken + 1, self._tried(lambda: os.rmdir(entry.name, dir_fd=self.top), entry.name)

    def _flatten(self, folder: int, steps: int) -> int:
        """Files of the folder go, folders of it go up. Answers how many there were."""
        taken = 0
        with os.scandir(folder) as entries:
            for entry in entries:
                taken += 1
                if entry.is_dir(follow_symlinks=False):
                    self._lift(entry.name, folder)
                else:
                    self._tried(lambda name=entry.name: os.unlink(name, dir_fd=folder), entry.name)
                if taken >= steps:
                    break
        return taken

    def _lift(self, name: str, folder: int) -> None:
        self._moved += 1
        fresh = f"{self._mark}-{self._moved:x}"
        try:
            try:
                os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=self.top)
            except PermissionError:
                # Its entry for the folder above changes, which takes the right to write to it.
                os.close(_open(name, folder))
                os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=self.top)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EXDEV and self.tops < _MAX_TOPS:
                self._clear_apart(name, folder)
            else:
                self._cannot(name, error)

    def _clear_apart(self, name: str, folder: int) -> None:
        try:
            top = _open(name, folder)
        except OSError as error:
            self._cannot(name, error)
            return
        try:
            apart = Clearing(top, self.tops + 1)
            while not apart.go(_RESTED_STEPS) and not apart.problem:
                pass
        finally:
            os.close(top)
        self._tried(lambda: os.rmdir(name, dir_fd=folder), name)

    def _tried(self, remove: object, name: str) -> bool:
        assert callable(remove)  # noqa: S101
        try:
            remove()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # it is looked into again
                self._cannot(name, error)
            return False
        return True

    def _cannot(self, name: str, error: OSError) -> None:
        shown = name[:100].encode("ascii", "backslashreplace").decode()
        self.problem = f"{shown}: {error.strerror}"


def _open(name: str, at: int) -> int:
    """A folder, made readable where its owner forbade it. Raises OSError."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=at)
    except PermissionError:
        seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
        try:
            os.chmod(f"/proc/self/fd/{seen}", 0o700)  # noqa: PTH101
        finally:
            os.close(seen)
        folder = os.open(name, _FOLDER, dir_fd=at)
    with contextlib.suppress(OSError):  # somebody else's, and root may do without
        os.fchmod(folder, 0o700)
    return folder


def clear(folder: str | os.PathLike[str]) -> str:
    """All of what is in it; answers what stays and why. Raises OSError when it cannot be opened."""
    top = _open(os.fspath(folder), -100)  # AT_FDCWD
    try:
        clearing = Clearing(top)
        while not clearing.go(_RESTED_STEPS):
            if clearing.problem:
                return clearing.problem
        return ""
    finally:
        os.close(top)


def give(folder: str | os.PathLike[str], uid: int, gid: int) -> None:
    """Everything in the folder to this user; links themselves, not what they point to. However deep it is.

    A file with other names stays whose it is unless it is the folder's owner's: a hard link may be to one of
    somebody else. Raises OSError, also when somebody moves folders meanwhile.
    """
    at = os.open(folder, _FOLDER)
    try:
        heir = _Heir(uid, gid, os.fstat(at).st_uid)
        os.fchown(at, uid, gid)
        path = [_place(at)]
        waiting = [heir.given(at)]
        while waiting:
            if waiting[-1]:
                at = _step(waiting[-1].pop(), at)
                path.append(_place(at))
                waiting.append(heir.given(at))
                continue
            waiting.pop()
            path.pop()
            if path:
                at = _step("..", at)
                if _place(at) != path[-1]:
                    raise OSError(errno.ELOOP, "a folder was moved while it was looked through")
    finally:
        os.close(at)


@dataclass(frozen=True, slots=True)
class _Heir:
    uid: int
    gid: int
    before: int  # whose all of it was

    def given(self, folder: int) -> list[str]:
        """The folders in it, when all that is in it has the user."""
        below = []
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    below.append(entry.name)
                elif status.st_nlink > 1 and status.st_uid != self.before:
                    continue
                os.chown(entry.name, self.uid, self.gid, dir_fd=folder, follow_symlinks=False)
        return below


def _step(name: str, at: int) -> int:
    there = os.open(name, _FOLDER, dir_fd=at)
    os.close(at)
    return there


def _place(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def main() -> int:
    """Gently: half of the time is somebody else's."""
    os.nice(_NICENESS)
    top = _open(sys.argv[1], -100)
    clearing = Clearing(top)
    while True:
        began = time.monotonic()
        if clearing.go(_RESTED_STEPS):
            return 0
        if clearing.problem:
            print(clearing.problem)
            return 1
        time.sleep(time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
