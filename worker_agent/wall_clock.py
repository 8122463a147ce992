"""The machine's clocks, in one place. The wall clock may be hours off: nothing is decided by it.

Leases, periods and limits go by the monotonic clock, and the pool dates everything by its own.
"""

from __future__ import annotations

import time


def now() -> float:
    return time.time()


def monotonic() -> float:
    """What runs are measured by: nobody sets it, and it stands while the machine is suspended."""
    return time.monotonic()
