"""What Flower hears: events off the broker by a door of its own, each checked before anything unpacks it.

Agents run on other people's machines and may publish whatever they like on their channels. Flower's own
receiver would hand it to kombu, which unpacks and decodes first; this one asks domain.nodes.worker_events. It
listens to registered nodes only, by name, and stops listening for a while to one that says too much.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from flower.events import Events
from prometheus_client import Counter as Metric
from tornado.ioloop import IOLoop

from dispatcher.flower_truth import AGENT_PREFIX, AttemptTruth
from nodepool.domain.errors import NodePoolError
from nodepool.domain.nodes import worker_events
from nodepool.domain.nodes.worker_events import DropReason, Event
from nodepool.messaging import names
from nodepool.stores.redis import monitor_words
from nodepool.stores.redis.client import Client, database_of
from nodepool.stores.redis.keys import MONITOR_CHANNEL
from nodepool.stores.redis.monitor_words import EndedWord, LeftWord
from nodepool.stores.redis.node_registry import NodeRegistry
from nodepool.stores.redis.subscription import Subscription, subscription

FOLLOW_SECONDS = 3.0
# A node that is registered no more is forgotten after this; Redis may have lost the list for a moment.
FORGET_SECONDS = 60.0
MUTED_SECONDS = 60.0
# What one node may say: an agent's events of some ten runs a second, and many more for a moment.
NODE_BYTES_A_SECOND = 32 << 10
NODE_BURST_BYTES = 512 << 10
LEAST_MESSAGE_BYTES = 512
# Events that wait for Flower's own thread; it takes some at a time, so that pages are served between them.
MAX_PENDING = 5_000
AT_ONCE = 100
# Of all the tasks that are kept, one node's are this part at the most.
SHARE_OF_A_NODE = 0.1
LOG_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_SUBSCRIBED_AT_ONCE = 1_000

DROPPED = Metric("hivemind_monitor_events_dropped", "Events that were not shown", ["reason"])

logger = logging.getLogger(__name__)


class DropCounter:
    """Counts what is dropped, for /metrics and for one line a minute. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._untold: Counter[str] = Counter()
        self._told_at = float("-inf")

    def add(self, reasons: Iterable[DropReason], sender: str) -> None:
        for reason in reasons:
            DROPPED.labels(reason.value).inc()
            # Those are lost with every restart, and mean nothing.
            if reason is not DropReason.UNKNOWN_TASK:
                with self._lock:
                    self._untold[reason.value] += 1
        with self._lock:
            if not self._untold or self._clock() - self._told_at < LOG_SECONDS:
                return
            told, self._untold, self._told_at = self._untold, Counter(), self._clock()
        words = ", ".join(f"{count} {reason}" for reason, count in sorted(told.items()))
        logger.warning("events were dropped: %s; the last was of %s", words, sender or "the pool's own")


class SenderBudget:
    """How many bytes one sender may still say now: a bucket that fills up again."""

    def __init__(self, now: float) -> None:
        self._left, self._at = float(NODE_BURST_BYTES), now

    def take(self, size: int, now: float) -> bool:
        self._left = min(NODE_BURST_BYTES, self._left + (now - self._at) * NODE_BYTES_A_SECOND)
        self._at = now
        self._left -= max(size, LEAST_MESSAGE_BYTES)
        return self._left >= 0


class Subscriptions:
    """The subscriptions: which channel is whose, who is muted, who is gone. For one thread.

    `known` are nodes that were heard before; it outlives a connection.
    """

    def __init__(self, subscription: Subscription, database: int, known: set[str]) -> None:
        self._subscription = subscription
        self._database = database
        self._known = known
        self._senders: dict[bytes, str] = {}
        self._heard: set[str] = set()
        self._muted: dict[str, float] = {}
        self._budgets: dict[str, SenderBudget] = {}
        self._missing: dict[str, float] = {}
        self._subscribe([""])

    def sender(self, channel: bytes) -> str | None:
        """The node that the channel is of, "" for the pool's own, None for nobody's."""
        return self._senders.get(channel)

    def allows(self, node_id: str, size: int, now: float) -> bool:
        """Whether the node may say this, too. It is not listened to for a while after it may not."""
        if not node_id or self._budgets.setdefault(node_id, SenderBudget(now)).take(size, now):
            return True
        self._muted[node_id] = now + MUTED_SECONDS
        self._unsubscribe(node_id)
        return False

    def follow(self, nodes: set[str], now: float) -> list[str]:
        """Listens to these nodes. Returns those that are gone for good."""
        for node_id in [node for node, until in self._muted.items() if now >= until]:
            del self._muted[node_id]
        new = sorted(nodes - self._heard - self._muted.keys())
        self._subscribe(new)
        self._known.update(new)
        for node_id in self._missing.keys() & nodes:
            del self._missing[node_id]
        gone = [
            node_id
            for node_id in self._known - nodes
            if now - self._missing.setdefault(node_id, now) >= FORGET_SECONDS
        ]
        for node_id in gone:
            self.forget(node_id)
        return gone

    def forget(self, node_id: str) -> None:
        """It has left: nothing of it is heard any more."""
        self._unsubscribe(node_id)
        self._known.discard(node_id)
        self._muted.pop(node_id, None)
        self._missing.pop(node_id, None)

    def _subscribe(self, node_ids: list[str]) -> None:
        channels = {
            name.encode(): node_id
            for node_id in node_ids
            for name in names.event_channels(node_id, self._database)
        }
        listed = list(channels)
        for start in range(0, len(listed), _SUBSCRIBED_AT_ONCE):
            self._subscription.subscribe(*listed[start : start + _SUBSCRIBED_AT_ONCE])
        self._senders.update(channels)
        self._heard.update(node_ids)

    def _unsubscribe(self, node_id: str) -> None:
        self._heard.discard(node_id)
        self._budgets.pop(node_id, None)
        channels = [name.encode() for name in names.event_channels(node_id, self._database)]
        known = [name for name in channels if self._senders.pop(name, None) is not None]
        if known:
            self._subscription.unsubscribe(*known)


class PoolEvents(Events):  # type: ignore[misc] # flower has no types
    """Flower's events, without kombu: a thread that listens and checks; the state is in Flower's own."""

    def __init__(self, client: Client, capp: Any, io_loop: IOLoop, **options: Any) -> None:
        super().__init__(capp, io_loop, enable_events=False, **options)
        self.name = "events"
        self.tally = DropCounter()
        self._client = client
        self._registry = NodeRegistry(client)
        self._database = database_of(client)
        self._clock = itertools.count(1)
        self._lock = threading.Lock()
        self._pending: deque[Event] = deque()
        self._taking = False
        self._known: set[str] = set()
        self.truth = AttemptTruth(self.state)
        self.on_forget: Callable[[str], None] = lambda _: None

    # -- the thread that listens -----------------------------------------------------------------------
    def run(self) -> None:
        while True:
            try:
                with subscription(self._client, MONITOR_CHANNEL) as heard:
                    self._listen(heard)
            except NodePoolError as error:
                logger.warning("events are not heard just now: %s", error.__cause__ or error)
            except Exception:
                logger.exception("hearing events failed; it goes on")
            time.sleep(_RETRY_SECONDS)

    def _listen(self, heard: Subscription) -> None:
        ears = Subscriptions(heard, self._database, self._known)
        follow_at = float("-inf")
        while True:
            now = time.monotonic()
            if now >= follow_at:
                follow_at = now + FOLLOW_SECONDS
                for node_id in ears.follow(self._registry.node_ids(), now):
                    self.io_loop.add_callback(self._forget, AGENT_PREFIX + node_id)
            message = heard.next(1.0)
            if message is None or message.begins:
                continue
            if message.channel == MONITOR_CHANNEL.encode():
                self._hear_pool(ears, message.data)
            else:
                self._hear(ears, message.channel, message.data)

    def _hear_pool(self, ears: Subscriptions, data: bytes) -> None:
        word = monitor_words.read(data)
        if isinstance(word, LeftWord):
            ears.forget(word.node)
            self.io_loop.add_callback(self._forget, AGENT_PREFIX + word.node)
        elif word is not None:
            self.io_loop.add_callback(self._tell_end, word)

    def _tell_end(self, word: EndedWord) -> None:
        self.truth.ended(word, time.time())

    def _hear(self, ears: Subscriptions, channel: bytes, data: bytes) -> None:
        node_id = ears.sender(channel)
        if node_id is None:
            return  # somebody who is not listened to any more
        sender = AGENT_PREFIX + node_id if node_id else ""
        if not ears.allows(node_id, len(data), time.monotonic()):
            self.tally.add([DropReason.RATE], sender)
            return
        heard = worker_events.parse_message(data, sender, time.time())
        self.tally.add(heard.dropped, sender)
        with self._lock:
            room = MAX_PENDING - len(self._pending)
            self._pending.extend(heard.events[:room])
            call, self._taking = not self._taking and bool(self._pending), self._taking or bool(self._pending)
        self.tally.add([DropReason.BUSY] * (len(heard.events) - room), sender)
        if call:
            self.io_loop.add_callback(self._take)

    # -- Flower's own thread ---------------------------------------------------------------------------
    def _take(self) -> None:
        with self._lock:
            taken = [self._pending.popleft() for _ in range(min(AT_ONCE, len(self._pending)))]
            self._taking = bool(self._pending)
            again = self._taking
        for event in taken:
            self.take(event)
        if again:
            self.io_loop.add_callback(self._take)

    def take(self, event: Event) -> None:
        """A checked event into Flower's state; whatever becomes of it, the next one is taken, too."""
        try:
            if self._is_gone(event["hostname"]):
                return
            refused = self._refused(event)
            if refused is None and not self.truth.is_only_said(event):
                # The order of arrival: nobody's own count, which could put them first for ever.
                self.state.event({**event, "clock": next(self._clock)})
                self.truth.received(event, time.time())
            elif refused is not None:
                self.tally.add([refused], event["hostname"])
        except Exception as error:
            self.tally.add([DropReason.FAILED], event["hostname"])
            logger.debug("an event failed", exc_info=error)

    def _is_gone(self, host: str) -> bool:
        """Said before its node left, and not looked at until then."""
        return host.startswith(AGENT_PREFIX) and host.removeprefix(AGENT_PREFIX) not in self._known

    def _refused(self, event: Event) -> DropReason | None:
        if not event["type"].startswith("task-"):
            return None
        host, task = event["hostname"], self.state.tasks.data.get(event["uuid"])
        if task is None:
            if event["type"] != "task-received":
                return DropReason.UNKNOWN_TASK
            self._make_room(host)
            return None
        return None if task.worker is not None and task.worker.hostname == host else DropReason.FOREIGN_TASK

    def _make_room(self, host: str) -> None:
        """A node's newest task takes the place of its own oldest one, not of other nodes'."""
        if not host.startswith(AGENT_PREFIX):
            return
        own = self.state.tasks_by_worker.get(host, ())
        # Celery's set has those that were pushed out, too, until their memory is collected.
        kept = [task for task in own if task.uuid in self.state.tasks.data]
        if len(kept) >= max(1, int(self.state.max_tasks_in_memory * SHARE_OF_A_NODE)):
            oldest = min(kept, key=lambda task: task.clock)
            own.discard(oldest)
            self._drop_task(oldest.uuid)

    def _drop_task(self, uuid: str) -> None:
        self.state.tasks.pop(uuid, None)
        self.state.search_engine.remove(uuid)

    def _forget(self, host: str) -> None:
        """Nothing stays of a node that left: names of nodes are anybody's, and would add up."""
        for uuid in [task.uuid for task in self.state.tasks_by_worker.pop(host, ())]:
            self._drop_task(uuid)
        self.state.workers.pop(host, None)
        self.state.counter.pop(host, None)
        self.state.metrics.remove_workers({host})
        self.on_forget(host)
