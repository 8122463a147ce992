"""(3) What it costs to hear of every node, and how soon a lost one is known.

A process writes the reports of all nodes at the pool's own pace. Here the real sweep runs in its thread and
the placement loop in its own. For a while both are only watched; then some nodes with work fall silent.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from benchmarks.figures import Spread, spread
from benchmarks.pool import BenchmarkError
from benchmarks.simulation.life import live
from benchmarks.simulation.reporting import Reporters, reporting
from benchmarks.simulation.stage import Stage
from benchmarks.simulation.watching import watched
from dispatcher.placing.node_events import NodeEventListener
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.sweeper import Sweeper
from nodepool.domain.nodes.report_interval import report_period
from nodepool.domain.tasks.states import AttemptState, TaskState
from nodepool.stores.redis import keys
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.tables import attempts, tasks
from nodepool.stores.sql.typed_rows import columns

_LOST_NODES = 5
_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    nodes: int
    attempts: int
    period_seconds: float  # between two reports of a node
    watched_seconds: float
    sweeps: int
    sweep_ms: float
    sweep_cpu_share: float  # of one core: CPU time of the sweep's thread, beside the clock
    process_cpu_share: float  # the same of all threads: sweep, placement loop, database
    redis_cpu_share: float
    detection: Spread  # seconds from a node's last report to its attempts being given up
    detection_worst: float
    detection_bound: float
    replaced: Spread  # the same, to the next attempt of its task on another node


def measure(stage: Stage, watch_seconds: float, rng: random.Random) -> Reports:
    """The stage has nodes with attempts on some of them, and nobody waits."""
    running = _begin_all(stage)
    settings, dispatcher = stage.settings, stage.dispatcher
    least, lease = settings.report_period_seconds, settings.lease_seconds
    pace = report_period(len(stage.node_ids), least_seconds=least, lease_seconds=lease)
    # While no gateway serves nobody is taken for lost.
    dispatcher.redis.set(keys.GATEWAY, "1")
    placement_loop = PlacementLoop(dispatcher)
    sweeper = Sweeper(dispatcher, placement_loop)
    listener = NodeEventListener(dispatcher.redis, placement_loop)
    with (
        reporting(settings.effective_redis_url, stage.node_ids, pace, running) as reporters,
        watched(sweeper, "sweep") as sweeping,
    ):
        time.sleep(pace)
        for part in (listener, placement_loop, sweeper):
            part.start()
        try:
            _until(lambda: sweeping.calls >= 2, "the sweep began")
            calls, sweep_cpu, sweep_seconds = sweeping.calls, sweeping.cpu_seconds, sweeping.seconds
            redis_cpu, process_cpu, began = _redis_cpu(stage), time.process_time(), time.perf_counter()
            time.sleep(watch_seconds)
            wall = time.perf_counter() - began
            sweeps = sweeping.calls - calls
            shares = (
                (sweeping.cpu_seconds - sweep_cpu) / wall,
                (time.process_time() - process_cpu) / wall,
                (_redis_cpu(stage) - redis_cpu) / wall,
            )
            sweep_ms = 1e3 * (sweeping.seconds - sweep_seconds) / max(1, sweeps)
            lost, again = _lose(stage, reporters, rng.sample(sorted(running), min(_LOST_NODES, len(running))))
        finally:
            for part in (sweeper, placement_loop, listener):
                part.stop()
    return Reports(
        nodes=len(stage.node_ids),
        attempts=sum(len(names) for names in running.values()),
        period_seconds=pace,
        watched_seconds=wall,
        sweeps=sweeps,
        sweep_ms=sweep_ms,
        sweep_cpu_share=shares[0],
        process_cpu_share=shares[1],
        redis_cpu_share=shares[2],
        detection=spread(lost),
        detection_worst=max(lost),
        detection_bound=settings.node_late_seconds + settings.sweep_period_seconds,
        replaced=spread(again),
    )


def _begin_all(stage: Stage) -> dict[str, list[str]]:
    """Every attempt is running, as after the claims of its agents: node -> attempts."""
    rows, now = live(stage), stage.dispatcher.clock()
    running: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        running[row.node_id].append(row.id)
    begun = {"state": AttemptState.RUNNING, "started_at": now}
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        for table, column, values in (
            (attempts, attempts.c.id, begun),
            (tasks, tasks.c.id, {**begun, "state": TaskState.RUNNING}),
        ):
            ids = [row.id if table is attempts else row.task_id for row in some]
            statement = update(table).where(column.in_(ids)).values(values)
            stage.dispatcher.database.write(lambda c: c.execute(statement))  # noqa: B023
    return dict(running)


def _lose(stage: Stage, reporters: Reporters, node_ids: Sequence[str]) -> tuple[list[float], list[float]]:
    """Seconds from the last report of each until its attempts are lost, and until they are elsewhere."""
    last = {node_id: reporters.silence(node_id) for node_id in node_ids}
    ids = {row.id: row.node_id for row in live(stage) if row.node_id in last}

    def ended() -> Mapping[str, PastAttempt]:
        query = select(*columns(PastAttempt, attempts)).where(
            attempts.c.id.in_(list(ids)), attempts.c.state == AttemptState.LOST
        )
        found = stage.dispatcher.database.read(lambda c: PastAttempt.from_rows(c.execute(query)))
        return {attempt.id: attempt for attempt in found}

    _until(lambda: len(ended()) == len(ids), f"{len(ids)} attempts of silent nodes are lost")
    rows = ended()
    lost = [(rows[name].finished_at or 0.0) - last[node_id] for name, node_id in ids.items()]

    waiting = {row.task_id for row in rows.values()}
    later: dict[str, PastAttempt] = {}

    def settled() -> bool:
        """Each is placed again, or is told why there is no room for it."""
        query = select(tasks.c.id, tasks.c.state, tasks.c.reason).where(tasks.c.id.in_(waiting))
        follow = select(*columns(PastAttempt, attempts)).where(
            attempts.c.task_id.in_(waiting), attempts.c.number > 1
        )
        states, followers = stage.dispatcher.database.read(
            lambda c: (c.execute(query).all(), PastAttempt.from_rows(c.execute(follow)))
        )
        later.update({row.task_id: row for row in followers})
        return all(
            task_id in later or (state == TaskState.QUEUED and reason) for task_id, state, reason in states
        )

    _until(settled, "they are placed again")
    elsewhere = [
        later[rows[name].task_id].created_at - last[node_id]
        for name, node_id in ids.items()
        if rows[name].task_id in later
    ]
    if not elsewhere:
        raise BenchmarkError("there was room for none of the lost nodes' tasks")
    return lost, elsewhere


def _redis_cpu(stage: Stage) -> float:
    info: Any = stage.dispatcher.redis.info("cpu")
    return float(info["used_cpu_sys"] + info["used_cpu_user"])


def _until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not true():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"in vain waited for: {what}")
        time.sleep(0.05)
