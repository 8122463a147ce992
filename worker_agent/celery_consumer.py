"""The agent as a Celery worker, embedded in its process, on the node's own queue only.

Messages are hints: they are handed on and forgotten. One of the two files of the agent that know
the broker; it knows neither the gateway nor how a task is run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from celery import Celery, signals
from celery.concurrency.thread import TaskPool
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Exchange, Queue

from nodepool import keepalive
from nodepool.domain import broker_address
from nodepool.domain.broker_address import BrokerTrust, celery_options

log = structlog.get_logger(__name__)

EXECUTE_TASK = "worker_agent.execute"
STOP_TASK = "worker_agent.stop"
# Slots beside those of running attempts, so that a stop never waits for one.
_SPARE_SLOTS = 4
_MAX_PAUSE_SECONDS = 5.0
_EVENT_HEARTBEAT_SECONDS = 5
_CALL_SECONDS = 3.0

# A consumer that still gets nothing after it was reconnected is built anew.
_REBUILD_WITHIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    node_id: str
    broker_url: str
    broker_ca_pem: str = ""
    queue: str
    control_exchange: str
    event_exchange: str
    events_enabled: bool
    max_tasks: int


class HintPool(TaskPool):
    """Threads that are not waited for: what they wait for goes on, whether Celery does or not."""

    executor: ThreadPoolExecutor

    def on_stop(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)

    def on_terminate(self) -> None:
        self.on_stop()


class Consumer:
    """`run` blocks in the main thread until `end`; everything else may be called from any thread.

    `execute` gets an attempt id, and returns when that attempt has ended. `stop` returns at once.
    """

    def __init__(
        self,
        options: ConsumerOptions,
        execute: Callable[[str], None],
        stop: Callable[[str], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._options = options
        self._execute = execute
        self._stop = stop
        self._on_ready = on_ready
        self._ending = threading.Event()
        self._restarted_at = float("-inf")
        self._worker: Any = None

    def run(self) -> None:
        """Builds a worker, and another one whenever one ends, until `end` was called."""
        # A receiver here keeps Celery's hands off the process's logging.
        signals.setup_logging.connect(_keep_logging, weak=False)
        pause = 0.1
        while not self._ending.is_set():
            began = time.monotonic()
            _set_celery_flags(None)
            try:
                self._worker = _worker(
                    build_app(self._options, self._execute, self._stop), self._options, self._on_ready
                )
                if self._ending.is_set():
                    break
                self._worker.start()
            except Exception:
                log.exception("the consumer failed", action="consumer.failed")
            finally:
                self._worker = None
            if time.monotonic() - began > _MAX_PAUSE_SECONDS:
                pause = 0.1
            if not self._ending.is_set():
                log.warning("the consumer has ended and is built again", action="consumer.rebuilt")
                self._ending.wait(pause)
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    def end(self) -> None:
        """Take no more messages; `run` returns within about a second."""
        self._ending.set()
        self._leave_loop()

    def restart(self) -> None:
        """Nothing was delivered while work was assigned: reconnect, or rebuild where that did not help."""
        now = time.monotonic()
        again = now - self._restarted_at < _REBUILD_WITHIN_SECONDS
        self._restarted_at = now
        log.warning("assigned work was not delivered", action="consumer.stalled", rebuilt=again)
        if again:
            self.rebuild()
        else:
            self.reconnect()

    def reconnect(self) -> None:
        """Drop the connection and make another one, the way Celery does when one breaks."""
        worker = self._worker
        consumer = getattr(worker, "consumer", None)
        if consumer is not None and consumer.hub is not None:
            consumer.call_soon(_break_connection)

    def rebuild(self, options: ConsumerOptions | None = None) -> None:
        """End this worker and build another one, with other options where given."""
        if options is not None:
            self._options = options
        self._leave_loop()

    def _leave_loop(self) -> None:
        # Celery's own flag for a warm shutdown: the exit code.
        _set_celery_flags(0)
        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None and consumer.hub is not None:
            # Wakes the loop, which then sees the flag.
            consumer.call_soon(lambda: None)


def build_app(
    options: ConsumerOptions, execute: Callable[[str], None], stop: Callable[[str], None]
) -> Celery:
    app = Celery("worker_agent", set_as_current=False, fixups=[])
    app.conf.update(settings(options))

    @app.task(name=EXECUTE_TASK, shared=False)
    def execute_attempt(attempt_id: str) -> None:
        execute(str(attempt_id))

    @app.task(name=STOP_TASK, shared=False)
    def stop_attempt(attempt_id: str) -> None:
        stop(str(attempt_id))

    return app


def settings(options: ConsumerOptions) -> dict[str, Any]:
    queue = Queue(options.queue, Exchange("", type="direct"), routing_key=options.queue, no_declare=True)
    broker = celery_options(
        broker_address.parse(options.broker_url, "the pool's broker"),
        BrokerTrust(ca_pem=options.broker_ca_pem),
    )
    return {
        **broker,
        "task_queues": [queue],
        "task_default_queue": options.queue,
        "task_default_exchange": "",
        "task_default_routing_key": options.queue,
        "task_create_missing_queues": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "result_backend": None,
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        # Per node, so that the agent's broker user can be kept to its own channel.
        "control_exchange": options.control_exchange,
        "event_exchange": options.event_exchange,
        "control_queue_expires": None,
        "worker_enable_remote_control": False,
        "worker_send_task_events": options.events_enabled,
        "task_send_sent_event": False,
        "broker_transport_options": {
            # The lease guards the work, not the broker: no shared `unacked` hash, no redelivery.
            "ack_emulation": False,
            "priority_steps": [0],
            **keepalive.broker_options(_CALL_SECONDS),
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_channel_error_retry": True,
        "broker_connection_timeout": _CALL_SECONDS,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Would take fewer messages after a reconnect, for as long as runs are running.
        "worker_enable_prefetch_count_reduction": False,
        "worker_detect_quorum_queues": False,
    }


def _worker(app: Celery, options: ConsumerOptions, on_ready: Callable[[], None]) -> Any:
    class EmbeddedWorker(app.Worker):  # type: ignore[name-defined, misc]
        """Without what a worker does to a process of its own: signals, title, standard streams."""

        def install_platform_tweaks(self, worker: Any) -> None:
            """The agent's own signal handlers stay."""

        def set_process_status(self, info: str) -> None:
            """The process has the agent's name."""

        def on_consumer_ready(self, consumer: Any) -> None:
            super().on_consumer_ready(consumer)
            on_ready()

    return EmbeddedWorker(
        pool=HintPool,
        concurrency=options.max_tasks + _SPARE_SLOTS,
        hostname=f"agent@{options.node_id}",
        task_events=options.events_enabled,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=not options.events_enabled,
        heartbeat_interval=_EVENT_HEARTBEAT_SECONDS,
        consumer_cls=_PromptConsumer,
        quiet=True,
    )


class _PromptConsumer(CeleryConsumer):
    """As the dispatcher's, which is not installed with agents."""

    def ensure_connected(self, conn: Any) -> Any:
        keepalive.ask_again_soon(conn)
        return super().ensure_connected(conn)


def _set_celery_flags(should_stop: int | None) -> None:
    state: Any = worker_state
    state.should_stop = should_stop
    state.should_terminate = None


def _break_connection() -> None:
    raise ConnectionResetError("nothing comes on this connection any more")


def _keep_logging(**_: Any) -> None:
    """The process has set its logging up already."""
