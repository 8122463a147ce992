"""Celery's consumer, that asks for a broker which was away every two seconds at the least."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

from nodepool.keepalive import ask_again_soon


class PromptConsumer(Consumer):
    """For celeryconfig.py's worker_consumer."""

    def ensure_connected(self, conn: Any) -> Any:
        ask_again_soon(conn)
        return super().ensure_connected(conn)
