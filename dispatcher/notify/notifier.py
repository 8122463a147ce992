"""Threads of their own for what is sent to people's targets, woken by hints, fed from SQL.

A hint says no more than "look": what is due stands in SQL. The dispatcher's Celery threads only wake this, so
that a receiver that hangs holds up neither placing nor, thanks to the turns, other receivers.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from dispatcher.context import Dispatcher
from dispatcher.notify.sender import NotificationSender
from nodepool.domain.errors import NodePoolError
from nodepool.domain.notifications.turns import Due, SendingTurns
from nodepool.stores.sql import notifications

log = logging.getLogger(__name__)
_SENDERS = 12
# On their way at once: of one user, and to one receiver, such as a service that many users are told by.
_OF_USER, _OF_RECEIVER = 2, 3
_WAITING = 500
# Of one user, or to one receiver, that one look takes along.
_OF_ONE_LOOK = 20
_CLOSE_SECONDS = 5.0


class Notifier:
    """`look` returns at once, from any thread."""

    def __init__(self, dispatcher: Dispatcher, sender: NotificationSender) -> None:
        self._dispatcher, self._sender = dispatcher, sender
        self._turns = SendingTurns(
            senders=_SENDERS, of_user=_OF_USER, of_receiver=_OF_RECEIVER, waiting=_WAITING
        )
        self._threads = ThreadPoolExecutor(_SENDERS, "notify")
        self._changed = threading.Condition()
        self._is_told, self._is_closed = False, False
        self._thread = threading.Thread(target=self._run, name="notify-turns", daemon=True)
        self._thread.start()

    def look(self) -> None:
        with self._changed:
            self._is_told = True
            self._changed.notify()

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way, or waits for its turn."""
        with self._changed:
            return self._turns.is_idle and not self._is_told

    def close(self) -> None:
        """What is on its way is tried again by whoever is there, when its time is over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_told or self._is_closed)
                if self._is_closed:
                    return
                self._is_told = False
            try:
                self._fetch()
            except NodePoolError as error:
                log.warning("notifications wait: %s", error)
            except Exception:
                log.exception("notifications could not be looked for; the next hint does")
            self._begin()

    def _fetch(self) -> None:
        now = self._dispatcher.clock()
        found = self._dispatcher.database.read(
            lambda c: notifications.due(c, now, of_one=_OF_ONE_LOOK, limit=_WAITING)
        )
        with self._changed:
            self._turns.offer(found)

    def _begin(self) -> None:
        with self._changed:
            while not self._is_closed and (due := self._turns.next()):
                self._threads.submit(self._send, due)

    def _send(self, due: Due) -> None:
        is_done = False
        try:
            self._sender.send(due.id)
            is_done = True
        except NodePoolError as error:
            log.warning("notification %s is tried again: %s", due.id, error)
        except Exception:
            log.exception("notification %s failed; it is tried again", due.id)
        with self._changed:
            self._turns.done(due)
            # More of this user may be due than a look takes along. What failed waits for the next hint.
            if is_done and not self._turns.waiting:
                self._is_told = True
                self._changed.notify()
        self._begin()
