"""(2) Through Celery end to end: hints in the dispatchers' queues, until every node's message is in its own.

The yardstick is bare Celery: a worker with the same arguments and settings takes the same messages from the
same queues of the same server, and its task does nothing. It is taken before and after.
"""

from __future__ import annotations

import re
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass

import psutil

from benchmarks.pool import BenchmarkError
from benchmarks.simulation.reporting import reporting
from benchmarks.simulation.stage import Stage
from benchmarks.simulation.workers import (
    BARE_DB,
    POOL_DB,
    Hints,
    dispatcher_environment,
    log_of,
    told,
    until_still,
    worker,
)
from benchmarks.simulation.workload import Workload
from nodepool.domain.nodes.report_interval import report_period
from nodepool.messaging.names import PLACE

_MOST_SECONDS = 90.0
_POLL_SECONDS = 0.02
_STILL_SECONDS = 3.0
_WARM_TASKS = 20
_RECEIVED = re.compile(rf"Task {re.escape(PLACE)}\[.*\] received")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    nodes: int
    hints: int
    dispatchers: int
    placed: int
    placements_per_s: float
    cpu_ms_each: float  # of the dispatchers' processes
    taken_singly: int  # hints that Celery handed over one by one; the rest were taken many at once
    bare_per_s: float
    bare_cpu_ms_each: float

    @property
    def ratio(self) -> float:
        return self.placements_per_s / self.bare_per_s


def measure(stage: Stage, workload: Workload, tasks: int, dispatchers: int) -> Flow:
    """The stage is filled with nodes and nobody waits."""
    settings = stage.settings
    rows = workload.tasks(tasks, time.time())
    pace = report_period(
        len(stage.node_ids),
        least_seconds=settings.report_period_seconds,
        lease_seconds=settings.lease_seconds,
    )
    with closing(Hints(stage, rows)) as hints:
        before = _bare(stage, hints)
        with reporting(settings.effective_redis_url, stage.node_ids, pace), ExitStack() as stack:
            processes = [
                stack.enter_context(worker(stage, f"dispatcher{number}", dispatcher_environment(stage)))
                for number in range(dispatchers)
            ]
            _warm_up(stage, workload)
            # Not earlier: the sweep finds in SQL who waits, and tells again of whose hint is old.
            now = time.time()
            times = dict.fromkeys(("created_at", "updated_at", "hinted_at", "queued_at"), now)
            stage.add_tasks([{**row, **times} for row in rows])
            before_them = _received(stage, dispatchers)
            placed = _pool(stage, hints, processes)
            singly = _received(stage, dispatchers) - before_them
        after = _bare(stage, hints)
    return Flow(
        nodes=len(stage.node_ids),
        hints=tasks,
        dispatchers=dispatchers,
        placed=placed.count,
        placements_per_s=placed.per_second,
        cpu_ms_each=placed.cpu_ms_each,
        taken_singly=singly,
        bare_per_s=(before.per_second + after.per_second) / 2,
        bare_cpu_ms_each=(before.cpu_ms_each + after.cpu_ms_each) / 2,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    count: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms_each(self) -> float:
        return 1e3 * self.cpu_seconds / self.count


def _bare(stage: Stage, hints: Hints) -> _Run:
    with worker(stage, "bare", {}, app="benchmarks.simulation.bare_worker", database=BARE_DB) as process:
        cpu = _cpu_seconds([process])
        began = hints.lay(BARE_DB)
        while hints.left(BARE_DB):
            if time.perf_counter() - began > _MOST_SECONDS:
                raise BenchmarkError(f"bare Celery left {hints.left(BARE_DB)} of {hints.count} messages")
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - began
        return _Run(hints.count, seconds, _cpu_seconds([process]) - cpu)


def _warm_up(stage: Stage, workload: Workload) -> None:
    """Until every dispatcher has looked at the fleet, and placed something."""
    rows = workload.tasks(_WARM_TASKS, time.time())
    stage.add_tasks(rows)
    for row in rows:
        stage.dispatcher.publisher.place(row["id"], row["tier"], row["region"])
    deadline = time.monotonic() + _MOST_SECONDS
    while not told(stage):
        if time.monotonic() > deadline:
            raise BenchmarkError("the dispatchers placed nothing")
        time.sleep(0.2)
    until_still(lambda: told(stage), _STILL_SECONDS, _MOST_SECONDS)


def _pool(stage: Stage, hints: Hints, processes: list[psutil.Process]) -> _Run:
    seen = before = told(stage)
    cpu = at_change = _cpu_seconds(processes)
    ended = began = hints.lay(POOL_DB)

    def moves() -> tuple[int, int]:
        """What comes after the last placement (sweeps, looks at the fleet) is not of these tasks."""
        nonlocal seen, at_change, ended
        if (now := told(stage)) != seen:
            seen, at_change, ended = now, _cpu_seconds(processes), time.perf_counter()
        return now, hints.left(POOL_DB)

    until_still(moves, _STILL_SECONDS, _MOST_SECONDS)
    if seen == before:
        raise BenchmarkError("the dispatchers placed nothing")
    return _Run(seen - before, ended - began, at_change - cpu)


def _received(stage: Stage, dispatchers: int) -> int:
    """Hints that Celery's logs tell of."""
    logs = (log_of(stage, f"dispatcher{number}") for number in range(dispatchers))
    return sum(len(_RECEIVED.findall(log.read_text(errors="replace"))) for log in logs)


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
