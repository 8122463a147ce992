"""The Celery app, its one-line tasks, and what starts and stops with its worker."""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from typing import Any, cast

from celery import signals
from celery.app.task import Task

from dispatcher import metrics_sources
from dispatcher.celery_metrics import CeleryMetrics
from dispatcher.context import Dispatcher, build, open_files, open_secret_box
from dispatcher.notify.notifier import Notifier
from dispatcher.notify.sender import NotificationSender
from dispatcher.placing.node_events import NodeEventListener
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.push.outcomes import PushOutcomes
from dispatcher.push.pusher import Pusher
from dispatcher.signs import DispatcherSigns
from dispatcher.sweep.sweeper import Sweeper
from nodepool import hardening, observability
from nodepool.domain.errors import NodePoolError
from nodepool.messaging import names, publisher
from nodepool.metrics.catalogue import Part
from nodepool.metrics.server import MetricsServer, registry_of
from nodepool.settings import Settings
from nodepool.stores.redis import certificates, fitness
from nodepool.watchdog import Watchdog

# The thread that takes hints waits for the interpreter after each of its many small commands to the broker,
# by default up to 5 ms as long as another thread computes.
_SWITCH_SECONDS = 0.0005


@cache
def settings() -> Settings:
    """Read when the worker starts, never at import."""
    return Settings()


app = publisher.make_app(settings, "dispatcher")


class _DeafWorker(app.Worker):  # type: ignore[name-defined, misc]
    """Hears no other worker's events, whatever the command line says: kombu unpacks whatever it is sent,
    and the channels of an agent whose name begins with `worker.` look like everybody's."""

    def prepare_args(self, **options: Any) -> dict[str, Any]:
        return {**super().prepare_args(**options), "without_gossip": True, "without_mingle": True}


cast(Any, app).Worker = _DeafWorker


class _Worker:
    """What the running worker holds; made when it starts, never at import."""

    dispatcher: Dispatcher | None = None
    broker_is_fit: bool = False
    placement_loop: PlacementLoop | None = None
    listener: NodeEventListener | None = None
    sweeper: Sweeper | None = None
    metrics: MetricsServer | None = None
    watchdog: Watchdog | None = None
    signs: DispatcherSigns | None = None
    # Made when the first node is to be called.
    pusher: Pusher | None = None
    making_pusher = threading.Lock()
    # Made when the first notification is to be sent.
    notifier: Notifier | None = None
    sender: NotificationSender | None = None


@signals.setup_logging.connect(weak=False)
def _set_up_logging(**_: Any) -> None:
    observability.set_up_logging(settings().log_level, as_json=settings().log_json)


@signals.celeryd_init.connect(weak=False)
def _harden(**_: Any) -> None:
    """The worker's process, as early as Celery lets us; importing this module changes no process."""
    hardening.harden()
    settings()  # some of them are secrets
    _Worker.watchdog = Watchdog.of(os.environ)
    hardening.forget_secrets()
    os.umask(0o077)


@signals.worker_init.connect(weak=False)
def _open(**_: Any) -> None:
    sys.setswitchinterval(_SWITCH_SECONDS)
    _Worker.dispatcher = build(settings())
    _look_at_broker()


def _look_at_broker() -> None:
    """Ends the worker where the broker will not do. One that is away now is looked at when it is there."""
    if _Worker.broker_is_fit:
        return
    built = dispatcher()
    try:
        certificates.check(built.redis, settings())
        if fitness.check(built.redis, settings()):
            built.own_broker.check()
            _Worker.broker_is_fit = True
    except NodePoolError as error:
        print(f"dispatcher: cannot start: {error}", file=sys.stderr)
        built.close()
        # Celery goes on whatever else is raised here.
        raise SystemExit(1) from error


@signals.worker_ready.connect(weak=False)
def _start_placing(sender: Any = None, **_: Any) -> None:
    _look_at_broker()
    placement_loop = _Worker.placement_loop = PlacementLoop(dispatcher())
    _Worker.listener = NodeEventListener(dispatcher().redis, placement_loop)
    _Worker.sweeper = Sweeper(dispatcher(), placement_loop)
    for part in (_Worker.listener, placement_loop, _Worker.sweeper):
        part.start()
    _serve_metrics(placement_loop, sender)
    if _Worker.watchdog:
        _Worker.signs = DispatcherSigns(_Worker.watchdog, _Worker.sweeper, placement_loop)
        _Worker.signs.start()


def _serve_metrics(placement_loop: PlacementLoop, consumer: Any) -> None:
    """Of this process, which is all of the dispatcher: its worker's pool is threads."""
    threads = int(getattr(getattr(consumer, "pool", None), "limit", None) or 1)
    hostname = str(getattr(consumer, "hostname", ""))
    CeleryMetrics(hostname).connect()
    sampler = metrics_sources.sampler(dispatcher(), placement_loop, hostname, threads)
    port = settings().dispatcher_metrics_port
    _Worker.metrics = MetricsServer(settings().metrics_host, port, registry_of(Part.DISPATCHER, sampler))
    _Worker.metrics.start()


@signals.worker_shutdown.connect(weak=False)
def _close(**_: Any) -> None:
    if _Worker.metrics:
        _Worker.metrics.close()
    if _Worker.signs:
        _Worker.signs.stop()
    for part in (_Worker.sweeper, _Worker.placement_loop, _Worker.listener):
        if part:
            part.stop()
    if _Worker.notifier:
        _Worker.notifier.close()
    if _Worker.sender:
        _Worker.sender.close()
    if _Worker.pusher:
        _Worker.pusher.close()
    if _Worker.dispatcher:
        _Worker.dispatcher.close()


def dispatcher() -> Dispatcher:
    if _Worker.dispatcher is None:
        raise RuntimeError("the dispatcher's worker has not started")
    return _Worker.dispatcher


@app.task(name=names.PLACE, bind=True)
def place(_task: Task[Any, Any], task_id: str) -> None:
    if _Worker.placement_loop is not None:
        _Worker.placement_loop.hint(task_id)


def pusher() -> Pusher:
    with _Worker.making_pusher:
        if _Worker.pusher is None:
            _Worker.pusher = Pusher(PushOutcomes(dispatcher(), open_files(settings())))
        return _Worker.pusher


def notifier() -> Notifier:
    with _Worker.making_pusher:
        if _Worker.notifier is None:
            _Worker.sender = NotificationSender(dispatcher(), open_secret_box(settings()))
            _Worker.notifier = Notifier(dispatcher(), _Worker.sender)
        return _Worker.notifier


@app.task(name=names.NOTIFY, bind=True)
def notify(_task: Task[Any, Any], _what: str) -> None:
    notifier().look()


@app.task(name=names.PUSH, bind=True)
def push(_task: Task[Any, Any], attempt_id: str) -> None:
    if settings().push_to_nodes:
        pusher().push(attempt_id)


@app.task(name=names.PUSH_STOP, bind=True)
def push_stop(_task: Task[Any, Any], attempt_id: str) -> None:
    pusher().stop(attempt_id)


@app.task(name=names.PUSH_ASK, bind=True)
def push_ask(_task: Task[Any, Any], attempt_id: str) -> None:
    pusher().ask(attempt_id)
