"""The Celery app, its one-line tasks, and what starts and stops with its worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import signals
from celery.app.task import Task

from dispatcher.context import Dispatcher, build
from dispatcher.place import place_one, place_waiting
from dispatcher.sweep import Sweeper
from nodepool import observability, queues
from nodepool.errors import UnavailableError
from nodepool.settings import Settings

log = logging.getLogger(__name__)

settings = Settings()
app = queues.make_app(settings, "dispatcher")


class _Worker:
    """What the running worker holds; made when it starts, never at import."""

    dispatcher: Dispatcher | None = None
    sweeper: Sweeper | None = None


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: Any) -> None:
    observability.set_up_logging(settings.log_level, as_json=settings.log_json)


@signals.worker_init.connect(weak=False)
def _open(**_: Any) -> None:
    _Worker.dispatcher = build(settings)


@signals.worker_ready.connect(weak=False)
def _start_sweeping(**_: Any) -> None:
    _Worker.sweeper = Sweeper(dispatcher())
    _Worker.sweeper.start()


@signals.worker_shutdown.connect(weak=False)
def _close(**_: Any) -> None:
    if _Worker.sweeper:
        _Worker.sweeper.stop()
    if _Worker.dispatcher:
        _Worker.dispatcher.close()


def dispatcher() -> Dispatcher:
    if _Worker.dispatcher is None:
        raise RuntimeError("the dispatcher's worker has not started")
    return _Worker.dispatcher


@app.task(name=queues.PLACE, bind=True)
def place(_task: Task[Any, Any], task_id: str) -> None:
    with _left_to_the_sweep(f"task {task_id}"):
        place_one(dispatcher(), task_id)


@app.task(name=queues.WAKE, bind=True)
def wake(_task: Task[Any, Any]) -> None:
    with _left_to_the_sweep("the waiting tasks"):
        place_waiting(dispatcher())


@contextmanager
def _left_to_the_sweep(what: str) -> Iterator[None]:
    """A hint is not worth a retry: when SQL or Redis is away, the sweep finds the work again."""
    try:
        yield
    except UnavailableError as error:
        log.warning("%s is left to the sweep: %s", what, error)
