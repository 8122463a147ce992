"""Whether the pool can do its work, as this gateway finds out every second: `PoolHealth`.

Three questions: can SQL be written, can the broker be written (and is it this pool's), does a dispatcher
sweep. Each is asked beside everything else, with patience of its own, so that a part that hangs is a bad
answer and not a gateway that hangs as well. SQL is written for it only where nobody else wrote lately. Knows
no gRPC.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from nodepool.clock import Clock
from nodepool.domain.errors import NodePoolError
from nodepool.domain.sweep_watch import SweepWatch
from nodepool.stores.redis.client import Client
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.sweep_mark import SweepMarks
from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database

log = structlog.get_logger(__name__)

DATABASE, BROKER, DISPATCHER = "database", "broker", "dispatcher"
_GATEWAY = "gateway"
LOOK_SECONDS = 1.0
# A write of anybody's shows for so long that SQL can be written.
_WRITE_SHOWS_SECONDS = 5.0
# What has not answered by then is away.
_PATIENCE_SECONDS = 5.0


@dataclass(slots=True)
class _HealthAnswer:
    """Of one question that is asked again and again. Fields are written by its thread alone."""

    problem: str = ""
    asked_at: float = 0.0
    answered_at: float = 0.0

    def present(self, now: float) -> str:
        """The last answer, or that there has been none for too long."""
        silent = now - self.asked_at
        if self.asked_at > self.answered_at and silent > _PATIENCE_SECONDS:
            return f"it has not answered for {silent:.0f} s"
        return self.problem


class PoolHealth:
    """Thread-safe. Everything is well until the first answer."""

    def __init__(
        self,
        database: Database,
        client: Client,
        clock: Clock,
        check_broker: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`check_broker` raises where the broker is another pool's."""
        self._database, self._clock, self._monotonic = database, clock, monotonic
        self._check_broker = check_broker
        self._liveness, self._marks = Liveness(client), SweepMarks(client)
        self._watch = SweepWatch(monotonic())
        self._sql, self._broker = _HealthAnswer(), _HealthAnswer()
        self._leaving = False
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(ask, answer), name=f"health {name}", daemon=True)
            for name, ask, answer in (
                (DATABASE, self._write_sql, self._sql),
                (BROKER, self._write_broker, self._broker),
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_leaving(self) -> bool:
        return self._leaving

    def leave(self) -> None:
        """This gateway is about to stop, however well the pool is."""
        self._leaving = True

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=LOOK_SECONDS)

    # -- answers -------------------------------------------------------------------------------------
    def problems(self) -> Mapping[str, str]:
        """By part, in words; empty where it works."""
        now = self._monotonic()
        broker = self._broker.present(now)
        # Before the first answer nobody can tell; while the broker is away neither, and that is said of it.
        dispatcher = "" if broker or not self._broker.answered_at else self._watch.problem(now)
        found = {DATABASE: self._sql.present(now), BROKER: broker, DISPATCHER: dispatcher}
        return {**found, _GATEWAY: "it is about to stop"} if self._leaving else found

    def sweep_age_seconds(self) -> float:
        return self._watch.age_seconds(self._monotonic())

    def dispatcher_works(self) -> bool:
        return not self.problems()[DISPATCHER]

    # -- questions -----------------------------------------------------------------------------------
    def _ask_on(self, ask: Callable[[], None], answer: _HealthAnswer) -> None:
        while not self._stopped.is_set():
            answer.asked_at = self._monotonic()
            try:
                ask()
                problem = ""
            except NodePoolError as error:
                problem = str(error)
            except Exception as error:
                problem = f"it cannot be written ({type(error).__name__})"
                log.exception("a part of the pool cannot be asked", action="health.failed")
            answer.problem, answer.answered_at = problem, self._monotonic()
            self._stopped.wait(LOOK_SECONDS)

    def _write_sql(self) -> None:
        written_at = self._database.written_at
        if written_at is not None and time.monotonic() - written_at < _WRITE_SHOWS_SECONDS:
            return
        now = self._clock()
        self._database.write(lambda connection: pool_records.probe_write(connection, now), patient=False)

    def _write_broker(self) -> None:
        self._check_broker()
        seen = self._marks.seen()
        self._watch.saw(None if seen is None else seen.mark, self._monotonic())
        self._liveness.probe_write()


def in_words(problems: Mapping[str, str]) -> str:
    """One line for people; empty where all is well."""
    return "; ".join(f"{part}: {problem}" for part, problem in problems.items() if problem)
