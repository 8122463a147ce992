"""How much memory a process may take: a limit of the kernel's, and an end with a word before it is reached.

For processes that keep nothing, and that somebody starts again: one that is started anew is worth more than
one that answers half of what it is asked. It does not know what the memory is for.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import threading
from pathlib import Path

ENDED_FOR_MEMORY = 75
# From here on it ends by itself, so that the kernel's refusal does not hit some half-done work.
ENOUGH = 0.9
# Threads' stacks count as soon as they are there; the usual 8 MiB would be most of the limit.
STACK_BYTES = 1 << 20
_SIZE = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)

logger = logging.getLogger(__name__)


class MemoryLimit:
    """Call `set` before there are threads, and `look` every so often."""

    def __init__(self, limit_bytes: int, setting: str) -> None:
        self._limit_bytes = limit_bytes
        self._setting = setting

    def set(self) -> None:
        """Private writable memory; a lower limit that is there already stays."""
        threading.stack_size(STACK_BYTES)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = self._limit_bytes if hard == resource.RLIM_INFINITY else min(self._limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def look(self) -> None:
        used = data_bytes()
        if used < self._limit_bytes * ENOUGH:
            return
        logger.error(
            "ends, to be started again: it uses %d MiB of the %d MiB of %s",
            used >> 20,
            self._limit_bytes >> 20,
            self._setting,
        )
        logging.shutdown()
        # At once: nothing here is kept, and an orderly end would need memory.
        os._exit(ENDED_FOR_MEMORY)


def data_bytes() -> int:
    """What RLIMIT_DATA limits, of this process."""
    found = _SIZE.search(Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) << 10 if found else 0
