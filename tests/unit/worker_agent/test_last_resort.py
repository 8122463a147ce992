"""A part that hangs does not keep the process that was told to end, and is shown."""

from __future__ import annotations

import subprocess
import sys

HANGS = """
import threading
from worker_agent import last_resort

def hang():
    threading.Event().wait(60)

last_resort.end_within({first})
last_resort.end_within({second})
{then}
"""


def ended(first: float, second: float, then: str) -> subprocess.CompletedProcess[str]:
    source = HANGS.format(first=first, second=second, then=then)
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_hangs_is_shown_and_ended() -> None:
    done = ended(50, 0.05, "hang()")
    assert done.returncode == 1
    assert "in hang" in done.stderr


def test_what_has_ended_by_itself_is_left_alone() -> None:
    done = ended(0.05, 50, "last_resort.ended()")
    assert (done.returncode, done.stderr) == (0, "")
