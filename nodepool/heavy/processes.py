"""The worker processes: few, niced, bounded in memory and time, replaced when they die, fair by account.

pebble keeps them, because it ends a worker whose job takes too long, which concurrent.futures cannot. They
are started with the first job, by spawn: a fork would take gRPC's threads and the pool's secrets along.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, TimeoutError as JobTimeoutError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from nodepool.domain.errors import UnavailableError
from nodepool.domain.heavy_limits import HeavyLimits
from nodepool.domain.scheduling.fair_turns import QueueBounds
from nodepool.heavy import worker
from nodepool.heavy.lanes import Lane
from nodepool.heavy.worker import OutOfBoundsError, WorkerEndedError

T = TypeVar("T")
NICE = 15
# A worker is replaced after so many jobs: what the libraries keep is given back.
_JOBS_OF_A_WORKER = 200
# Jobs have their bound in processor time, which does not depend on what else the machine does; this is for
# one that waits for ever.
_WALL_FACTOR = 10
_STOP_SECONDS = 5.0


class HeavyWork:
    """Thread-safe. Close it: nothing runs on after that."""

    def __init__(self, limits: HeavyLimits) -> None:
        self._limits = limits
        self._lane = Lane(
            QueueBounds(
                width=limits.processes,
                # One is left for everybody else.
                of_one=max(1, limits.processes - 1),
                waiting_of_one=limits.waiting_of_one,
                waiting=limits.waiting,
            )
        )
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._closed = threading.Event()

    def submit(self, account: Hashable, job: Callable[..., T], *arguments: Any) -> Future[T]:
        """`job` is a function of a module, its arguments and result can be pickled.

        RateLimitedError where too much waits. The future raises what the job raises, OutOfBoundsError where
        the job used up its time or memory or killed its process, UnavailableError where the pool ends.
        """
        return self._lane.submit(account, lambda: self._schedule(job, arguments))

    @property
    def waiting(self) -> int:
        return self._lane.waiting

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join(_STOP_SECONDS)

    def _schedule(self, job: Callable[..., T], arguments: tuple[Any, ...]) -> Future[T]:
        seconds = self._limits.cpu_seconds
        told: Future[T] = Future()
        work = self._workers().schedule(
            worker.bounded, args=[seconds, job, arguments], timeout=_WALL_FACTOR * seconds
        )
        work.add_done_callback(lambda done: _pass_on(told, done))
        return told

    def _workers(self) -> ProcessPool:
        with self._lock:
            if self._closed.is_set():
                raise UnavailableError("the pool is shutting down; try again in a moment")
            if self._pool is None or not self._pool.active:
                self._pool = pool = ProcessPool(
                    max_workers=self._limits.processes,
                    max_tasks=_JOBS_OF_A_WORKER,
                    initializer=worker.set_up,
                    initargs=[os.getpid(), self._limits.memory_bytes, NICE],
                    context=multiprocessing.get_context("spawn"),
                )
                started = threading.Event()
                threading.Thread(
                    target=self._keep, args=(pool, started), name="heavy-work", daemon=True
                ).start()
                started.wait()
            return self._pool

    def _keep(self, pool: ProcessPool, started: threading.Event) -> None:
        """Workers end with the thread that started them, so one does nothing else."""
        try:
            pool.schedule(worker.ready)
        finally:
            started.set()
        self._closed.wait()


def _pass_on(told: Future[Any], done: Future[Any]) -> None:
    if done.cancelled():
        told.set_exception(UnavailableError("the pool is shutting down; try again in a moment"))
        return
    error = done.exception()
    if error is None:
        told.set_result(done.result())
    elif isinstance(error, JobTimeoutError):
        told.set_exception(OutOfBoundsError("it takes more time than it may have"))
    elif isinstance(error, ProcessExpired):
        told.set_exception(WorkerEndedError("it ended the process that looked at it"))
    elif isinstance(error, BrokenProcessPool):
        told.set_exception(UnavailableError("the pool cannot look at this just now; try again in a moment"))
    else:
        told.set_exception(error)
