"""Flower's memory limit, on processes that reach it."""

from __future__ import annotations

import subprocess
import sys

from dispatcher.monitor_memory import ENDED_FOR_MEMORY

PROGRAM = """
from dispatcher.monitor_memory import MemoryLimit, data_bytes
limit = MemoryLimit(data_bytes() + (64 << 20))
limit.set()
limit.look()
try:
    bytearray(80 << 20)
except MemoryError:
    print("no more than the limit", flush=True)
kept = bytearray(60 << 20)
limit.look()
"""


def test_the_kernel_gives_no_more_and_it_ends_with_a_word_before_that() -> None:
    command = [sys.executable, "-c", PROGRAM]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.stdout == "no more than the limit\n"
    assert ended.returncode == ENDED_FOR_MEMORY
    assert "ends, to be started again: it uses" in ended.stderr
