"""Celery's consumer, that asks for a broker which was away every two seconds at the least.

By itself it waits two seconds longer each time, up to half a minute, while the broker may be back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

_PAUSE_SECONDS = 0.5
_MOST_SECONDS = 2.0


class PromptConsumer(Consumer):
    """For celeryconfig.py's worker_consumer."""

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=_PAUSE_SECONDS,
            interval_step=_PAUSE_SECONDS,
            interval_max=_MOST_SECONDS,
        )
        return super().ensure_connected(conn)
