"""Tells the placement loop of nodes that have more room or changed, and of users whose tier did.

What is said while nobody listens is lost: after every new connection the whole fleet is looked at.
"""

from __future__ import annotations

import logging
import threading

from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.domain.errors import UnavailableError
from nodepool.stores.redis import keys
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.subscription import subscription

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 1.0
_RETRY_SECONDS = 0.5


class NodeEventListener:
    """A thread with a connection of its own."""

    def __init__(self, client: Client, placement_loop: PlacementLoop) -> None:
        self._redis = client
        self._placement_loop = placement_loop
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except UnavailableError as error:
                log.warning("events of nodes are not heard just now: %s", error.__cause__)
                self._stopped.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with subscription(self._redis, keys.NODE_EVENTS_CHANNEL, keys.OWNER_EVENTS_CHANNEL) as heard:
            while not self._stopped.is_set():
                message = heard.next(_LISTEN_SECONDS)
                if message is None:
                    continue
                if message.begins:
                    self._placement_loop.look_again()
                else:
                    self._pass_on(message.channel.decode(), message.data.decode(errors="replace"))

    def _pass_on(self, channel: str, text: str) -> None:
        if channel == keys.NODE_EVENTS_CHANNEL:
            self._placement_loop.node_changed(text)
        elif text.isdecimal():
            self._placement_loop.owner_changed(int(text))
