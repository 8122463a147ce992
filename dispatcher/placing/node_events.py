"""Hears of nodes that have more room or changed, and of users whose tier did, and passes it on to the desk.

What is said while nobody listens is lost: after every new connection the whole fleet is looked at.
"""

from __future__ import annotations

import logging
import threading

import redis

from dispatcher.placing.placement_loop import PlacementLoop
from nodepool.stores.redis import keys

log = logging.getLogger(__name__)

_LISTEN_SECONDS = 1.0
_RETRY_SECONDS = 0.5


class NodeEventListener:
    """A thread with a connection of its own."""

    def __init__(self, client: redis.Redis, desk: PlacementLoop) -> None:
        self._redis = client
        self._desk = desk
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
            except (redis.RedisError, OSError) as error:
                log.warning("events of nodes are not heard just now: %s", error)
                self._stopped.wait(_RETRY_SECONDS)

    def _listen(self) -> None:
        with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(keys.NODE_EVENTS_CHANNEL, keys.OWNER_EVENTS_CHANNEL)
            while not self._stopped.is_set():
                message = channel.get_message(timeout=_LISTEN_SECONDS)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._desk.look_again()
                elif message["type"] == "message":
                    self._pass_on(message["channel"].decode(), message["data"].decode(errors="replace"))

    def _pass_on(self, channel: str, text: str) -> None:
        if channel == keys.NODE_EVENTS_CHANNEL:
            self._desk.node_changed(text)
        elif text.isdecimal():
            self._desk.owner_changed(int(text))
