"""Where folders of runs go at once, so that a slot is free, and from where they go in the background.

What a run leaves is at most as large as a run may be, and no more than so many wait: above that the node says
that it takes no work, for its disk is not as free as it seems.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import structlog

from worker_agent import clearing

log = structlog.get_logger(__name__)

# Ordinary folders of runs: not worth a process. What is larger goes in a gentle one.
_STEPS_HERE = 1000
_CHILD_SECONDS = 3600
_RETRY_SECONDS = 60.0
DEFAULT_MAX_WAITING = 16


class Trash:
    """The folder belongs to it alone, on the file system of what is thrown into it. Thread-safe."""

    def __init__(self, folder: Path, max_waiting: int = DEFAULT_MAX_WAITING) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._waiting = {path.name for path in folder.iterdir()}
        self._stuck: dict[str, str] = {}
        self._closed = False
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._reap, name="reaper", daemon=True)
        self._thread.start()

    def throw(self, tree: Path) -> None:
        """The folder is gone from where it was; it need not exist. Raises OSError when it stays."""
        name = secrets.token_hex(8)
        try:
            tree.rename(self._folder / name)
        except FileNotFoundError:
            return
        except OSError:
            # A mount, or another file system: only this thread waits for it.
            remove_tree(tree)
            return
        with self._changed:
            self._waiting.add(name)
            self._changed.notify_all()

    def problem(self) -> str:
        """Why the node must take no more work now, or nothing."""
        with self._changed:
            stuck = dict(self._stuck)
            left = len(self._waiting | stuck.keys())
        if left <= self._max_waiting:
            return ""
        why = f", {len(stuck)} of which cannot be removed ({next(iter(stuck.values()))})" if stuck else ""
        return f"the node still removes what {left} earlier runs left on its disk{why}"

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._waiting)

    def close(self) -> None:
        """What is left goes at the next start."""
        with self._changed:
            self._closed = True
            child = self._child
            self._changed.notify_all()
        if child is not None:
            with contextlib.suppress(OSError):
                child.kill()
        self._thread.join()

    # -- the thread ----------------------------------------------------------------------------------
    def _reap(self) -> None:
        while name := self._next():
            problem = self._remove(name)
            with self._changed:
                if self._closed:
                    return
                self._waiting.discard(name)
                if problem:
                    self._stuck[name] = problem
                else:
                    self._stuck.pop(name, None)
                self._changed.notify_all()
            if problem:
                log.error("what a run left cannot be removed", action="trash.stuck", reason=problem)

    def _next(self) -> str:
        with self._changed:
            while not self._closed and not self._waiting:
                if not self._changed.wait(_RETRY_SECONDS if self._stuck else None):
                    self._waiting.update(self._stuck)
            return "" if self._closed else next(iter(self._waiting))

    def _remove(self, name: str) -> str:
        """Empty, or why it stays."""
        path = self._folder / name
        try:
            if not path.is_dir() or path.is_symlink():
                path.unlink(missing_ok=True)
                return ""
            problem = self._remove_here(path)
            if problem is None:
                problem = self._remove_apart(path)
            if not problem:
                path.rmdir()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error.strerror)
        return problem

    def _remove_here(self, path: Path) -> str | None:
        """Like `_remove`; None when there is more than is removed here."""
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            work = clearing.Clearing(top)
            if work.go(_STEPS_HERE):
                return ""
            return work.problem or None
        finally:
            os.close(top)

    def _remove_apart(self, path: Path) -> str:
        command = [sys.executable, "-I", "-S", str(Path(clearing.__file__)), str(path)]
        with self._changed:
            if self._closed:
                return "the agent ends"
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        try:
            told, _ = self._child.communicate(timeout=_CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            told, _ = self._child.communicate()
        code = self._child.returncode
        with self._changed:
            self._child = None
        return (
            ""
            if code == 0
            else told.decode(errors="replace").strip()[:300] or f"the removal ended with {code}"
        )


def remove_tree(folder: Path) -> None:
    """Remove a folder that a task has written into, now; it need not exist.

    Raises OSError when something of it stays.
    """
    try:
        problem = clearing.clear(folder)
    except FileNotFoundError:
        return
    if problem:
        raise OSError(f"{folder} cannot be removed: {problem}")
    folder.rmdir()
