"""A process that reaches its limit of memory."""

from __future__ import annotations

import subprocess
import sys

from nodepool.memory_limit import ENDED_FOR_MEMORY

PROGRAM = """
from nodepool.memory_limit import MemoryLimit, data_bytes
limit = MemoryLimit(data_bytes() + (64 << 20), "SOME_MEMORY_MB")
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
    assert "SOME_MEMORY_MB" in ended.stderr
