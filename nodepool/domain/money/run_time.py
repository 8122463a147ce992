"""How long a run took, as it is paid for: measured, never read from a clock that somebody can set. Pure.

A node tells how long the program ran by its own monotonic clock; fetching, unpacking, packing and sending
are not in it, nor is the time in which the machine was suspended. It is believed up to what the pool saw:
from the claim to the end by the monotonic clock of the process that saw both, else by the pool's time, in
which no jump of a wall clock is (nodepool/clock.py). Where the two differ the smaller one counts: a node
cannot claim more than there was, and a pool that was suspended or restarted makes nothing longer.
"""

from __future__ import annotations

import math


def seen_seconds(started_at: float | None, now: float, measured: float | None) -> float:
    """From claim to end. `measured`: by one process's monotonic clock, where one saw both."""
    by_dates = max(0.0, now - started_at) if started_at is not None else 0.0
    return by_dates if measured is None or not math.isfinite(measured) else max(0.0, measured)


def paid_seconds(told: float | None, seen: float) -> float:
    """`told`: by the node; None: it is of a version that does not tell."""
    if told is None or not math.isfinite(told) or told < 0:
        return seen
    return min(told, seen)
