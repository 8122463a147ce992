"""Where folders of runs go at once, so that a slot is free, and from where they go in the background.

What a run leaves is at most as large as a run may be, and no more than so many large ones wait: above that
the node says that it takes no work, for its disk is not as free as it seems.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from worker_agent import tree_removal

log = structlog.get_logger(__name__)

DEFAULT_MAX_LARGE = 16
# Ordinary folders of runs are not worth a process, and do not wait for a large one.
_STEPS_HERE = 1000
_MAX_WAITING = 1000
_CHILD_SECONDS = 3600
_RETRY_SECONDS = 60.0


class Trash:
    """The folder belongs to it alone, on the file system of what is thrown into it. Thread-safe."""

    def __init__(self, folder: Path, max_large: int = DEFAULT_MAX_LARGE) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_large = max_large
        self._changed = threading.Condition()
        self._waiting = {path.name for path in folder.iterdir()}
        self._large: set[str] = set()
        self._stuck: dict[str, str] = {}
        self._closed = False
        self._child: subprocess.Popen[bytes] | None = None
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._reap, "reaper"), (self._reap_large, "reaper-large"))
        ]
        for thread in self._threads:
            thread.start()

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
            large, waiting = len(self._large), len(self._waiting)
        if large + len(stuck) <= self._max_large and waiting <= _MAX_WAITING:
            return ""
        left = large + waiting + len(stuck)
        why = f", {len(stuck)} of which cannot be removed ({next(iter(stuck.values()))})" if stuck else ""
        return f"the node still removes what {left} earlier runs left on its disk{why}"

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._waiting) + len(self._large)

    def close(self) -> None:
        """What is left goes at the next start."""
        with self._changed:
            self._closed = True
            child = self._child
            self._changed.notify_all()
        if child is not None:
            with contextlib.suppress(OSError):
                child.kill()
        for thread in self._threads:
            thread.join()

    # -- the threads ---------------------------------------------------------------------------------
    def _reap(self) -> None:
        while name := self._next(self._waiting):
            problem = self._removed(name, self._remove_here)
            with self._changed:
                self._waiting.discard(name)
                if problem is None:
                    self._large.add(name)
                self._settle(name, problem)

    def _reap_large(self) -> None:
        while name := self._next(self._large):
            problem = self._removed(name, self._remove_apart)
            with self._changed:
                if self._closed:
                    return
                self._large.discard(name)
                self._settle(name, problem)

    def _settle(self, name: str, problem: str | None) -> None:
        """Under the lock."""
        if problem:
            self._stuck[name] = problem
            log.error("what a run left cannot be removed", action="trash.stuck", reason=problem)
        self._changed.notify_all()

    def _next(self, names: set[str]) -> str:
        """Blocks until there is one; empty when this ends."""
        with self._changed:
            while not self._closed and not names:
                retries = names is self._waiting and bool(self._stuck)
                if not self._changed.wait(_RETRY_SECONDS if retries else None):
                    names.update(self._stuck)
                    self._stuck.clear()
            return "" if self._closed else next(iter(names))

    def _removed(self, name: str, empty: Callable[[Path], str | None]) -> str | None:
        """Empty when it has gone; why it stays; None when there is more of it than `empty` takes."""
        path = self._folder / name
        try:
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
                return ""
            problem = empty(path)
            if problem == "":
                path.rmdir()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return str(error.strerror)
        return problem

    def _remove_here(self, path: Path) -> str | None:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            work = tree_removal.Clearing(top)
            if work.go(_STEPS_HERE):
                return ""
            return work.problem or None
        finally:
            os.close(top)

    def _remove_apart(self, path: Path) -> str:
        command = [sys.executable, "-I", "-S", str(Path(tree_removal.__file__)), str(path)]
        with self._changed:
            if self._closed:
                return "the agent ends"
            child = self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        try:
            told, _ = child.communicate(timeout=_CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            told, _ = child.communicate()
        with self._changed:
            self._child = None
        words = told.decode(errors="replace").strip()[:300]
        return "" if child.returncode == 0 else words or f"the removal ended with {child.returncode}"


def remove_tree(folder: Path) -> None:
    """Remove a folder that a task has written into, now; it need not exist.

    Raises OSError when something of it stays.
    """
    try:
        problem = tree_removal.clear(folder)
    except FileNotFoundError:
        return
    if problem:
        raise OSError(f"{folder} cannot be removed: {problem}")
    folder.rmdir()
