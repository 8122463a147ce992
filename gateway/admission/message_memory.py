"""How many bytes of packages, results and outputs the gateway holds in memory for its callers at once.

One budget for all, of which one account has at most half, or one thing whatever its size. It counts what
is told to it; `message_reader.py` adds what is on its way. It belongs to the event loop's thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from nodepool.domain.errors import RateLimitedError
from nodepool.domain.limit_names import LimitName

# What is smaller is not worth counting: the number of open calls bounds it.
LEAST_BYTES = 256 << 10
_RETRY_SECONDS = 5.0
_FULL = "the pool holds as much for its callers as its memory takes; try again in 5 seconds"


class MemoryBudget:
    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._of_account: Counter[int] = Counter()
        self.held_bytes = 0

    @property
    def share_bytes(self) -> int:
        """What one account may hold in more than one thing."""
        return self.total_bytes // 2

    @contextmanager
    def hold(self, account: int, size_bytes: int) -> Iterator[None]:
        """Raises RateLimitedError where so much is not to be had now. Account 0 is nobody's."""
        if size_bytes < LEAST_BYTES:
            yield
            return
        of_account = self._of_account[account]
        # The first thing of all may be larger than the budget: else nobody could ever have it.
        over = self.held_bytes and self.held_bytes + size_bytes > self.total_bytes
        if over or (of_account and of_account + size_bytes > self.share_bytes):
            raise RateLimitedError(_FULL, retry_after_seconds=_RETRY_SECONDS, limit=LimitName.MESSAGE_MEMORY)
        self._of_account[account] += size_bytes
        self.held_bytes += size_bytes
        try:
            yield
        finally:
            self.held_bytes -= size_bytes
            self._of_account[account] -= size_bytes
            if not self._of_account[account]:
                del self._of_account[account]
