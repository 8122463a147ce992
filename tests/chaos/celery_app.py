"""Stock Celery on Redis as its documentation would have it for tasks that must not be lost: the yardstick.

`celery -A tests.chaos.celery_app worker`. Its one task does what a package of the workload does, and writes
into a file when it begins and when it is done.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery
from kombu import Queue

# The documentation's advice: longer than the longest task, or tasks that run are given away.
VISIBILITY_SECONDS = 10
QUEUE = "normal.any"
JOURNAL_VARIABLE = "CHAOS_JOURNAL"
_SOCKETS = {
    "socket_timeout": 3.0,
    "socket_connect_timeout": 3.0,
    "socket_keepalive": True,
    "retry_on_timeout": True,
    "health_check_interval": 3,
}


def make_app(url: str) -> Celery:
    app = Celery("yardstick", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_track_started=True,
        task_queues=[Queue(QUEUE)],
        task_default_queue=QUEUE,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS, **_SOCKETS},
        result_backend_transport_options={"retry_policy": {"timeout": 5.0}},
        redis_socket_timeout=3.0,
        redis_socket_connect_timeout=3.0,
        redis_socket_keepalive=True,
        redis_retry_on_timeout=True,
        redis_backend_health_check_interval=3,
        result_expires=3600,
    )
    return app


app = make_app(os.environ.get("CHAOS_BROKER_URL", "redis://127.0.0.1:6379/0"))


@app.task(bind=True, name="chaos.work")
def work(self, seconds: float) -> str:  # type: ignore[no-untyped-def]
    token = os.urandom(8).hex()
    _say("begun", self, token)
    time.sleep(seconds)
    _say("done", self, token)
    return token


def _say(word: str, task, token: str) -> None:  # type: ignore[no-untyped-def]
    """One line at once, whole."""
    line = f"{word} {task.request.id} {token} {time.monotonic()} {task.request.hostname} {os.getpid()}\n"
    with Path(os.environ[JOURNAL_VARIABLE]).open("a", encoding="ascii") as file:
        file.write(line)
