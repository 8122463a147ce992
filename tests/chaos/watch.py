"""Looks at the pool from outside, past every broken line: its books, the rooms kept in Redis, the processes
on the nodes. Each by a thread of its own, so that one that is away keeps no other from being seen."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import redis
from sqlalchemy import create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from nodepool.domain.nodes.history import HistoryRules
from nodepool.stores.redis import keys
from nodepool.stores.sql.tables import attempts, credit_changes, nodes, tasks
from tests.chaos.history import Attempt, CreditChange, Pause, Run, Sample
from tests.chaos.invariants import FINAL, LIVE
from tests.chaos.living import Living
from tests.chaos.stage import Stage

_PERIOD_SECONDS = 0.2
_PROBATION_AFTER = HistoryRules().probation_after
# Older books say nothing about now.
_FRESH_SECONDS = 3.0
# The machine's, not the pool's: a watcher that slept for so long more than it wanted saw nothing.
_PAUSE_SECONDS = 0.7
# Between two looks a run's processes may be one another's successors.
_GONE_SECONDS = 1.5


@dataclass(slots=True)
class SeenAttempt:
    task_id: str
    number: int
    node_id: str
    seen: float
    state: str
    ended: float | None = None
    listed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class SeenTask:
    state: str
    ended: float | None = None
    ends: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    waiting: int | None
    alive: frozenset[str]
    ready: frozenset[str]
    crowd: float


class Watch:
    """From start() to stop(); what it saw is read afterwards, but for `has_ended` and `running`."""

    def __init__(self, stage: Stage, living: Living) -> None:
        self._stage, self._living = stage, living
        self.attempts: dict[str, SeenAttempt] = {}
        self.tasks: dict[str, SeenTask] = {}
        self.credit: dict[str, CreditChange] = {}
        self.on_probation: set[str] = set()
        self.pauses: list[Pause] = []
        self._looks: list[_Look] = []
        self._runs: list[Run] = []
        self._open_runs: dict[str, Run] = {}
        self._waiting, self._books_at = 0, float("-inf")
        self._ending = threading.Event()
        self._engine = create_engine(stage.database_url, pool_size=1, pool_pre_ping=True)
        self._threads = [
            threading.Thread(target=self._loop, args=(look,), name=look.__name__, daemon=True)
            for look in (self._books, self._rooms, self._nodes)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._engine.dispose()

    # -- while it runs ---------------------------------------------------------------------------------
    def has_ended(self, task_id: str) -> bool:
        task = self.tasks.get(task_id)
        return task is not None and task.state in FINAL

    @property
    def running(self) -> dict[str, str]:
        """Attempts with living processes, and their nodes."""
        return {it: self.attempts[it].node_id for it in list(self._open_runs) if it in self.attempts}

    # -- threads ---------------------------------------------------------------------------------------
    def _loop(self, look: Callable[[], None]) -> None:
        last = time.monotonic()
        while not self._ending.wait(_PERIOD_SECONDS):
            now = time.monotonic()
            if look == self._nodes and now - last > _PERIOD_SECONDS + _PAUSE_SECONDS:
                self.pauses.append(Pause(last, now))
            with contextlib.suppress(SQLAlchemyError, redis.RedisError, AssertionError):
                look()
            last = now

    def _books(self) -> None:
        """The pool's own: only what is committed."""
        with self._engine.connect() as connection:
            now = time.monotonic()
            found = connection.execute(select(tasks.c.id, tasks.c.state)).all()
            of_attempts = connection.execute(
                select(
                    attempts.c.id, attempts.c.task_id, attempts.c.number, attempts.c.node_id, attempts.c.state
                )
            ).all()
            moves = connection.execute(
                select(
                    credit_changes.c.id, credit_changes.c.node_id, credit_changes.c.task_id,
                    credit_changes.c.delta, credit_changes.c.reason,
                )
            ).all()  # fmt: skip
            doubted = connection.execute(select(nodes.c.id).where(nodes.c.bad_streak >= _PROBATION_AFTER))
            self.on_probation.update(doubted.scalars())
        for task_id, state in found:
            self._see_task(task_id, state, now)
        for attempt_id, *row in of_attempts:
            self._see_attempt(attempt_id, row, now)
        for move_id, node_id, task_id, delta, reason in moves:
            self.credit.setdefault(move_id, CreditChange(node_id, task_id, delta, now, reason))
        self._waiting = sum(1 for _, state in found if state == "QUEUED")
        self._books_at = now

    def _see_task(self, task_id: str, state: str, now: float) -> None:
        task = self.tasks.setdefault(task_id, SeenTask(state))
        task.state = state
        if state in FINAL:
            task.ended = now if task.ended is None else task.ended
            if not task.ends or task.ends[-1] != state:
                task.ends.append(state)
        elif task.ends:
            task.ends.append(state)

    def _see_attempt(self, attempt_id: str, row: list[object], now: float) -> None:
        task_id, number, node_id, state = row
        seen = self.attempts.get(attempt_id)
        if seen is None:
            seen = self.attempts[attempt_id] = SeenAttempt(task_id, number, node_id, now, state)  # type: ignore[arg-type]
        seen.state = str(state)
        if state not in LIVE and seen.ended is None:
            seen.ended = now

    def _rooms(self) -> None:
        now = time.monotonic()
        with self._stage.valkey.admin.pipeline(transaction=False) as pipe:
            for agent in self._stage.agents:
                pipe.hkeys(keys.assigned(agent.node_id))
            answers = pipe.execute()
        for attempt_id in (it for listed in answers for it in listed):
            seen = self.attempts.get(attempt_id)
            if seen is not None and seen.ended is not None:
                seen.listed.append(now)

    def _nodes(self) -> None:
        now = time.monotonic()
        alive = self._living.now()
        for attempt_id in alive:
            run = self._open_runs.get(attempt_id)
            self._open_runs[attempt_id] = Run(attempt_id, "", run.began if run else now, now)
        for attempt_id, run in list(self._open_runs.items()):
            if now - run.ended > _GONE_SECONDS:
                self._runs.append(self._open_runs.pop(attempt_id))
        books_are_fresh = now - self._books_at < _FRESH_SECONDS
        ready = frozenset(it.node_id for it in self._stage.agents) - frozenset(self._stage.away)
        self._looks.append(
            _Look(now, self._waiting if books_are_fresh else None, frozenset(alive), ready, _crowd())
        )

    # -- afterwards ------------------------------------------------------------------------------------
    def samples(self) -> tuple[Sample, ...]:
        found = []
        for look in self._looks:
            running: dict[str, int] = dict.fromkeys((it.node_id for it in self._stage.agents), 0)
            for attempt_id in look.alive & self.attempts.keys():
                running[self.attempts[attempt_id].node_id] += 1
            found.append(Sample(look.at, look.waiting, running, look.ready, look.crowd))
        return tuple(found)

    def runs(self) -> tuple[Run, ...]:
        every = [*self._runs, *self._open_runs.values()]
        known = [run for run in every if run.attempt_id in self.attempts]
        return tuple(
            Run(run.attempt_id, self.attempts[run.attempt_id].node_id, run.began, run.ended)
            for run in sorted(known, key=lambda it: it.began)
        )

    def seen_attempts(self) -> tuple[Attempt, ...]:
        return tuple(
            Attempt(name, it.task_id, it.number, it.node_id, it.seen, it.state, it.ended, tuple(it.listed))
            for name, it in self.attempts.items()
        )


def _crowd() -> float:
    """Processes that run or could, of the whole machine, for each of its processors."""
    runnable = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
    return int(runnable) / (os.cpu_count() or 1)
