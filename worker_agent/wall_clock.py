"""The machine's wall clock, in one place. It may be hours off: nothing is decided by it.

Leases, periods and limits go by the monotonic clock, and the pool dates everything by its own.
"""

from __future__ import annotations

import time


def now() -> float:
    return time.time()
