"""How hints are published; `names` has their names.

Every message is a hint: publishing that fails is logged and forgotten, because the sweep derives
the hint again from SQL. No caller may depend on a hint's arrival.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from celery import Celery
from kombu import Connection, Exchange, Producer, Queue
from kombu.exceptions import OperationalError

import celeryconfig
from nodepool.domain.broker_address import celery_options
from nodepool.messaging.message_template import MessageTemplates
from nodepool.messaging.names import (
    EXECUTE,
    NOTIFY,
    NOTIFY_QUEUE,
    PLACE,
    PUSH,
    PUSH_ASK,
    PUSH_QUEUE,
    PUSH_STOP,
    STOP,
    message_id,
    node_queue,
    partition_queue,
    shown_arguments,
)
from nodepool.settings import Settings

# Messages of one round trip.
_BATCH = 500
_MAX_BACKGROUND = 50_000
_CLOSE_SECONDS = 5.0
# To nodes there are no more hints than reservations, and who waits for one waits for seconds: a server that
# is full takes them too. Of tasks to place there may be any number, and the sweep tells of them as well.
_PUSH_EVEN_WHEN_FULL = "#!lua flags=allow-oom\nreturn redis.call('LPUSH', KEYS[1], ARGV[1])"
_DIRECT = Exchange("", type="direct")
log = logging.getLogger(__name__)


def make_app(settings: Settings | Callable[[], Settings], name: str = "nodepool") -> Celery:
    """`settings`, or what reads them, which is asked when the app is configured and not before."""
    app = Celery(name, set_as_current=False)
    app.config_from_object("celeryconfig")

    def chosen() -> dict[str, Any]:
        known = settings() if callable(settings) else settings
        options = celery_options(known.broker, known.broker_trust, known.sentinel_login)
        return {
            **options,
            "broker_transport_options": {
                **celeryconfig.broker_transport_options,
                **options["broker_transport_options"],
            },
        }

    # They come before what the module says.
    app.add_defaults(chosen)
    return app


class Hint(NamedTuple):
    """`name` of the task, and its argument. `shown`: what whoever watches sees in its place."""

    name: str
    argument: str
    queue_name: str
    shown: str = ""


class Publisher:
    """Publishes hints. Thread-safe: each thread holds its own connection until close().

    For threads that last, such as a pool's.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._envelopes = MessageTemplates(app)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._background: _Background | None = None

    def place(self, task_id: str, tier: str, region: str) -> bool:
        return self._send(PLACE, task_id, partition_queue(tier, region))

    def place_soon(self, task_id: str, tier: str, region: str) -> None:
        """`place`, by a thread of the publisher's: who calls does not wait, and hints of one moment share
        a round trip. Forgotten when too many wait, as any hint may be."""
        with self._lock:
            if self._background is None:
                self._background = _Background(self)
        self._background.add(Hint(PLACE, task_id, partition_queue(tier, region)))

    def execute(self, node_id: str, attempt_id: str) -> bool:
        return self._send_to_node(EXECUTE, attempt_id, node_queue(node_id))

    def execute_all(self, attempts: Sequence[tuple[str, str, str]]) -> None:
        """`execute` for many (node, attempt, task as its node knows it), in few round trips."""
        self.send_all(
            [
                Hint(EXECUTE, attempt_id, node_queue(node_id), shown_arguments(task_id, attempt_id, node_id))
                for node_id, attempt_id, task_id in attempts
            ]
        )

    def send_all(self, hints: Sequence[Hint]) -> None:
        """Many hints in few round trips."""
        try:
            self._push(hints)
        except self._publish_errors():
            # One by one, each with its second try; a hint that comes twice does no harm.
            self._forget()
            for hint in hints:
                self._send(*hint)

    def stop(self, node_id: str, attempt_id: str) -> bool:
        return self._send_to_node(STOP, attempt_id, node_queue(node_id))

    def push(self, node_id: str, attempt_id: str) -> bool:  # noqa: ARG002 - as execute() has it
        """Call the node, which has no agent, with the attempt."""
        return self._send_to_node(PUSH, attempt_id, PUSH_QUEUE)

    def push_stop(self, node_id: str, attempt_id: str) -> bool:  # noqa: ARG002
        return self._send_to_node(PUSH_STOP, attempt_id, PUSH_QUEUE)

    def push_ask(self, node_id: str, attempt_id: str) -> bool:  # noqa: ARG002
        """Ask the node whether it still has the attempt."""
        return self._send_to_node(PUSH_ASK, attempt_id, PUSH_QUEUE)

    def notify(self) -> bool:
        """Look for notifications that are due."""
        return self._send(NOTIFY, "due", NOTIFY_QUEUE)

    def close(self) -> None:
        """Close every thread's connection; called when none of them publishes any more."""
        with self._lock:
            background, self._background = self._background, None
        if background is not None:
            background.close()
        with self._lock:
            connections, self._connections = self._connections, []
        self._local = threading.local()
        for connection in connections:
            _close(connection)

    def _send_to_node(self, name: str, argument: str, queue_name: str) -> bool:
        hint = Hint(name, argument, queue_name)
        try:
            self._push([hint])
        except self._publish_errors():
            self._forget()
            return self._send(*hint)
        return True

    def _push(self, hints: Sequence[Hint]) -> None:
        channel: Any = self._producer().channel
        with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for start in range(0, len(hints), _BATCH):
                for name, argument, queue_name, shown in hints[start : start + _BATCH]:
                    text = self._envelopes.text(name, argument, queue_name, shown)
                    if name == PLACE:
                        pipe.lpush(queue_name, text)
                    else:
                        pipe.eval(_PUSH_EVEN_WHEN_FULL, 1, queue_name, text)
                pipe.execute()

    def _send(self, name: str, argument: str, queue_name: str, shown: str = "") -> bool:
        # A held connection may have died since its last use; the second try opens a new one.
        for last in (False, True):
            try:
                self._publish(name, argument, queue_name, shown)
            except self._publish_errors() as error:
                self._forget()
                if last:
                    log.warning("hint %s %s was not published: %s", name, argument, error)
                    return False
            else:
                return True
        return False

    def _publish(self, name: str, argument: str, queue_name: str, shown: str) -> None:
        queue = Queue(queue_name, _DIRECT, routing_key=queue_name, no_declare=True)
        options: dict[str, Any] = {"argsrepr": shown} if shown else {}
        self._app.send_task(
            name,
            args=[argument],
            queue=cast(Any, queue),  # Celery takes a Queue; its stubs know names only
            declare=[],
            producer=self._producer(),
            retry=False,
            ignore_result=True,
            task_id=message_id(name, argument) if name == EXECUTE else None,
            **options,
        )

    def _producer(self) -> Producer:
        producer: Producer | None = getattr(self._local, "producer", None)
        if producer is None:
            connection = self._app.connection_for_write()
            self._local.connection = connection
            # By itself it would pause for two seconds before each second look.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0)
            with self._lock:
                self._connections.append(connection)
            producer = self._app.amqp.Producer(connection.channel(), auto_declare=False)
            self._local.producer = producer
        return producer

    def _publish_errors(self) -> tuple[type[BaseException], ...]:
        connection: Any = getattr(self._local, "connection", None) or self._app.connection_for_write()
        return (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)

    def _forget(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.producer = self._local.connection = None
        if connection is not None:
            with self._lock:
                if connection in self._connections:
                    self._connections.remove(connection)
            _close(connection)


class _Background:
    """Publishes what is added, in order, on a thread of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._changed = threading.Condition()
        self._hints: list[Hint] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hints", daemon=True)
        self._thread.start()

    def add(self, hint: Hint) -> None:
        with self._changed:
            if len(self._hints) < _MAX_BACKGROUND:
                self._hints.append(hint)
            self._changed.notify()

    def close(self) -> None:
        """What was added is published first."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hints or self._closed)
                hints, self._hints = self._hints[:_BATCH], self._hints[_BATCH:]
                if not hints:
                    return
            try:
                self._publisher.send_all(hints)
            except Exception:
                log.exception("%d hints were not published", len(hints))


def _close(connection: Connection) -> None:
    try:
        connection.close()
    except Exception as error:  # noqa: BLE001 - it is broken already
        log.debug("closing a broken connection: %s", error)
