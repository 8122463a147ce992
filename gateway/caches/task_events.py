"""Wakes the watchers of a task when Redis says that something of it changed.

A wake-up is a hint: watchers look by themselves every so often, so a lost one costs a moment.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.subscription import subscription

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 0.5
log = logging.getLogger(__name__)


class EventHub:
    """One subscription for the whole process; watchers are asyncio events by task id."""

    def __init__(self, client: Client) -> None:
        self._redis = client
        self._watchers: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="task-events", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * _POLL_SECONDS)
        self._redis.close()

    @contextmanager
    def watch(self, *task_ids: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the tasks may have changed. On the loop's thread only."""
        event = asyncio.Event()
        for task_id in task_ids:
            self._watchers[task_id].add(event)
        try:
            yield event
        finally:
            for task_id in task_ids:
                self._watchers[task_id].discard(event)
                if not self._watchers[task_id]:
                    del self._watchers[task_id]

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with subscription(self._redis, keys.EVENTS_CHANNEL) as heard:
                    while not self._closed.is_set():
                        message = heard.next(_POLL_SECONDS)
                        if message and not message.begins and self._loop:
                            self._loop.call_soon_threadsafe(self._wake, message.data.decode())
            except UnavailableError as error:
                log.warning("task events are not heard just now: %s", error.__cause__)
                self._closed.wait(_RETRY_SECONDS)
            except RuntimeError:
                return  # the loop is closed: the gateway is going down

    def _wake(self, task_id: str) -> None:
        for event in self._watchers.get(task_id, ()):
            event.set()
