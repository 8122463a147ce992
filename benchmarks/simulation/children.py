"""Processes of a simulation: each ends when the simulation does, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from local_pool import parent_death

ROOT = Path(__file__).resolve().parent.parent.parent
_STOP_SECONDS = 15.0


def start_child(
    argv: Sequence[str], environment: Mapping[str, str], log: Any, **more: Any
) -> subprocess.Popen[bytes]:
    """Call from the main thread: the leash is of the thread that starts it."""
    return subprocess.Popen(
        [sys.executable, parent_death.__file__, str(os.getpid()), *argv],
        env={"PATH": os.environ.get("PATH", ""), **environment},
        cwd=ROOT,
        stderr=log,
        start_new_session=True,
        **{"stdout": log, **more},
    )


def stop_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
