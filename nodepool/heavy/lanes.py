"""A lane: an executor that serves many accounts in turns, however much one of them asks for.

Thread-safe. What waits is bounded for each account and in all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from nodepool.domain.errors import NodePoolError
from nodepool.domain.scheduling.fair_turns import FairQueue, QueueBounds

T = TypeVar("T")
Start: TypeAlias = Callable[[], "Future[Any]"]


class Lane:
    """`submit` takes what begins the work and gives its future."""

    def __init__(self, bounds: QueueBounds) -> None:
        self._lock = threading.Lock()
        self._queue: FairQueue[tuple[Start, Future[Any]]] = FairQueue(bounds)

    def submit(self, account: Hashable, start: Callable[[], Future[T]]) -> Future[T]:
        """A future that cannot be cancelled once its work runs. RateLimitedError where too much waits."""
        told: Future[T] = Future()
        with self._lock:
            begins = self._queue.begin(account)
            if not begins:
                self._queue.wait(account, (start, told))
        if begins:
            told.set_running_or_notify_cancel()
            self._start(account, start, told)
        return told

    @property
    def waiting(self) -> int:
        with self._lock:
            return self._queue.waiting

    def _start(self, account: Hashable, start: Start, told: Future[Any]) -> None:
        try:
            work = start()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self._end(account, told, error=error)
        else:
            work.add_done_callback(partial(self._ended, account, told))

    def _ended(self, account: Hashable, told: Future[Any], work: Future[Any]) -> None:
        if work.cancelled():
            self._end(account, told, error=NodePoolError("the pool is shutting down; try again"))
        elif error := work.exception():
            self._end(account, told, error=error)
        else:
            self._end(account, told, value=work.result())

    def _end(
        self, account: Hashable, told: Future[Any], *, value: Any = None, error: BaseException | None = None
    ) -> None:
        with self._lock:
            self._queue.done(account)
        if error is not None:
            told.set_exception(error)
        else:
            told.set_result(value)
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        while True:
            with self._lock:
                following = self._queue.next()
            if following is None:
                return
            account, (start, told) = following
            if told.set_running_or_notify_cancel():
                self._start(account, start, told)
            else:  # nobody waits for it any more
                with self._lock:
                    self._queue.done(account)


class ThreadLane:
    """A lane of threads of its own."""

    def __init__(self, name: str, bounds: QueueBounds) -> None:
        self._lane = Lane(bounds)
        self._threads = ThreadPoolExecutor(bounds.width, thread_name_prefix=name)

    def submit(self, account: Hashable, call: Callable[[], T]) -> Future[T]:
        return self._lane.submit(account, partial(self._threads.submit, call))

    @property
    def waiting(self) -> int:
        return self._lane.waiting

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def be_nice(nice: int) -> None:
    """Of the calling thread."""
    # On Linux a thread has a priority of its own. Without it the work is done all the same.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
