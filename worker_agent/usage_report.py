"""What the agent's report says: the load of the machine, and of each run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil

from worker_agent import wall_clock
from worker_agent.attempt import Attempt

REPORT_VERSION = 1


def build_report(attempts: Mapping[str, Attempt], *, score_per_core: float) -> dict[str, Any]:
    """Every attempt that is held, the ones included whose end is not acknowledged yet."""
    return {
        "v": REPORT_VERSION,
        "at": wall_clock.now(),
        "cpu_percent": psutil.cpu_percent(None),
        "memory_percent": psutil.virtual_memory().percent,
        "running": [_usage(attempt, score_per_core) for attempt in attempts.values()],
    }


def _usage(attempt: Attempt, score_per_core: float) -> dict[str, Any]:
    usage = attempt.usage()
    return {
        "attempt_id": attempt.attempt_id,
        "memory_bytes": usage.memory_bytes,
        "cpu_percent": round(usage.cpu_percent, 1),
        # In points: what a core here is worth does not depend on how much of the node is offered.
        "cpu_score": round(usage.cpu_percent / 100 * score_per_core, 1),
    }
