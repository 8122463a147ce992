"""How often agents report: the pool sets it, and it grows with the number of nodes."""

from __future__ import annotations

import math

# The fleet's reports a second: with more nodes each reports less often.
MAX_REPORTS_PER_SECOND = 500
# An agent believes no pace that would make it a nuisance, or end its own runs between two reports.
SHORTEST_SECONDS = 0.2
_MAX_TEXT = 32


def report_period(nodes: int, *, least_seconds: float, lease_seconds: float) -> float:
    """Never so far apart that a lease could pass between two reports."""
    wanted = nodes / MAX_REPORTS_PER_SECOND
    return math.ceil(min(max(least_seconds, wanted), lease_seconds / 2) * 1000) / 1000


def read_pace(text: str | None, *, lease_seconds: float) -> float | None:
    """The period that the pool's text names; None when it says nothing, or nothing that can be."""
    if not text or len(text) > _MAX_TEXT:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if SHORTEST_SECONDS < seconds <= lease_seconds / 2 else None
