"""Finds and ends what earlier lives of a process runner left behind, and nothing else.

A process is named by pid, start time and boot: a pid alone may belong to somebody else by now.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path

from worker_agent.runners import proc
from worker_agent.runners.sandbox import ATTEMPT_VARIABLE, attempt_slug

_ROUNDS = 100
_KILL_SECONDS = 10


def record(folder: Path, attempt_id: str, pid: int, uid: int | None) -> Path:
    path = folder / attempt_slug(attempt_id)
    text = json.dumps(
        {
            "attempt_id": attempt_id,
            "pid": pid,
            "start_ticks": proc.start_ticks(pid),
            "boot_id": proc.boot_id(),
            "uid": uid,
        }
    )
    path.write_text(text)
    return path


def end_recorded(folder: Path, keep: Collection[str], may_end_user: Callable[[int], bool] | None) -> int:
    """How many runs had something left to end. `may_end_user` is asked before a whole user is ended."""
    ended = 0
    for path in list(folder.iterdir()):
        try:
            entry = json.loads(path.read_text())
            attempt_id, pid, uid = str(entry["attempt_id"]), int(entry["pid"]), entry["uid"]
            named = (entry["start_ticks"], entry["boot_id"])
        except (ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)  # written by a machine that went down in the middle
            continue
        if attempt_id in keep:
            continue
        found = False
        if named[1] == proc.boot_id():
            if proc.start_ticks(pid) == named[0]:
                found = True
                end_tree(pid)
            if uid is not None and may_end_user is not None and may_end_user(int(uid)):
                found = end_user(int(uid)) or found
            elif uid is None:
                found = end_marked(attempt_id) or found
        ended += found
        path.unlink(missing_ok=True)
    return ended


def end_tree(pid: int) -> None:
    members = [pid, *proc.descendants(pid)]
    for member in members:
        proc.send(member, signal.SIGKILL)


def end_user(uid: int) -> bool:
    """Everything of a user of ours; one signal for all, so that a fork bomb cannot outrun it."""
    found = False
    for _ in range(_ROUNDS):
        members = proc.processes_of_user(uid)
        if not members:
            for pid in proc.processes_of_user(uid, with_zombies=True):
                proc.bury(pid)
            return found
        found = True
        subprocess.run(
            ["/bin/sh", "-c", "kill -9 -1"],
            user=uid,
            group=uid,
            extra_groups=[],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_KILL_SECONDS,
            check=False,
        )
        for pid in members:
            proc.bury(pid)
    return found


def end_marked(attempt_id: str) -> bool:
    """Processes that went into sessions of their own, found by their environment."""
    found = False
    for _ in range(_ROUNDS):
        members = [pid for pid in proc.processes_with(ATTEMPT_VARIABLE, attempt_id) if pid != os.getpid()]
        if not members:
            return found
        found = True
        for pid in members:
            proc.send(pid, signal.SIGKILL)
            proc.bury(pid)
    return found
