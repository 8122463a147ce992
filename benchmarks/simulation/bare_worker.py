"""The yardstick of the way through Celery: the dispatcher's worker with a task that does nothing.

`celery -A benchmarks.simulation.bare_worker worker …`: the same settings, queues and messages.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.task import Task

from nodepool.messaging import names

app = Celery("bare", set_as_current=False)
app.config_from_object("celeryconfig")


@app.task(name=names.PLACE, bind=True)
def place(_task: Task[Any, Any], _task_id: str) -> None:
    return
