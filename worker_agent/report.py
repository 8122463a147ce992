"""What the agent's report says: the load of the machine, and of each run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import psutil

from worker_agent.attempt import Attempt

REPORT_VERSION = 1


def build_report(attempts: Mapping[str, Attempt]) -> dict[str, Any]:
    """Every attempt that is held, the ones included whose end is not acknowledged yet."""
    return {
        "v": REPORT_VERSION,
        "at": time.time(),
        "cpu_percent": psutil.cpu_percent(None),
        "memory_percent": psutil.virtual_memory().percent,
        "running": [_usage(attempt) for attempt in attempts.values()],
    }


def _usage(attempt: Attempt) -> dict[str, Any]:
    usage = attempt.usage()
    return {
        "attempt_id": attempt.attempt_id,
        "memory_bytes": usage.memory_bytes,
        "cpu_percent": round(usage.cpu_percent, 1),
    }
