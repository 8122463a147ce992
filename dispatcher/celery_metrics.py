"""Counts what the dispatcher's Celery worker does, under the names of celery-exporter.

Only messages that Celery itself takes: with many hints in the queues the placement loop takes them by itself.
A message names its task, and anybody who can write to the broker could write one: names that are not the
pool's count as `other`.
"""

from __future__ import annotations

import time
from typing import Any

from celery import signals

from celeryconfig import task_queues
from nodepool.messaging import names
from nodepool.metrics import catalogue
from nodepool.metrics.catalogue import OTHER, bounded

_TASKS = frozenset({names.PLACE, names.PUSH, names.PUSH_STOP, names.PUSH_ASK})
_QUEUES = frozenset(str(queue.name) for queue in task_queues)
_EXCEPTIONS = frozenset({"UnavailableError", "StaleAttemptError", "OperationalError", "StorageFullError"})


class CeleryMetrics:
    """Connected to the worker's signals for as long as the process lives."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname

    def connect(self) -> None:
        signals.task_received.connect(self._received, weak=False)
        signals.task_prerun.connect(self._began, weak=False)
        signals.task_postrun.connect(self._ended, weak=False)
        signals.task_success.connect(self._succeeded, weak=False)
        signals.task_failure.connect(self._failed, weak=False)
        signals.task_rejected.connect(self._rejected, weak=False)
        signals.task_unknown.connect(self._rejected, weak=False)

    def _labels(self, task: Any, delivery: Any = None) -> tuple[str, str, str]:
        if delivery is None:
            delivery = getattr(getattr(task, "request", None), "delivery_info", None)
        queue = str((delivery or {}).get("routing_key", ""))
        return bounded(str(getattr(task, "name", "")), _TASKS), self._hostname, bounded(queue, _QUEUES)

    def _received(self, request: Any = None, **_: Any) -> None:
        labels = self._labels(request, getattr(request, "delivery_info", None))
        catalogue.celery_task_received.labels(*labels).inc()

    def _began(self, task: Any = None, **_: Any) -> None:
        catalogue.celery_task_started.labels(*self._labels(task)).inc()
        catalogue.celery_worker_tasks_active.labels(self._hostname).inc()
        task.request.began_at = time.perf_counter()

    def _ended(self, task: Any = None, **_: Any) -> None:
        catalogue.celery_worker_tasks_active.labels(self._hostname).dec()
        began = getattr(task.request, "began_at", None)
        if began is not None:
            seconds = time.perf_counter() - began
            catalogue.celery_task_runtime.labels(*self._labels(task)).observe(seconds)

    def _succeeded(self, sender: Any = None, **_: Any) -> None:
        catalogue.celery_task_succeeded.labels(*self._labels(sender)).inc()

    def _failed(self, sender: Any = None, exception: Any = None, **_: Any) -> None:
        kind = bounded(type(exception).__name__, _EXCEPTIONS)
        catalogue.celery_task_failed.labels(*self._labels(sender), kind).inc()

    def _rejected(self, **_: Any) -> None:
        catalogue.celery_task_rejected.labels(OTHER, self._hostname, OTHER).inc()
