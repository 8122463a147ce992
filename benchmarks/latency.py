"""(a) From `UploadTask` sent to the task's first line of output at the client, on an idle pool."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks.bare import SCRIPT, RunnerKind, Work, bare_first_line_ms, runner_first_line_ms
from benchmarks.figures import Figure, differences, spread
from benchmarks.pool import Pool
from benchmarks.tasks import Tasks, Timeline, package

AIM_MS = 30.0
WARM_UP = 3


def measure(pool: Pool, kind: RunnerKind, count: int, seconds: float) -> Figure:
    """Up to `count` rounds within `seconds`; every round takes the pool and each yardstick once."""
    tasks, work = Tasks(pool), Work(kind)
    task_zip = package(SCRIPT)
    timelines: list[Timeline] = []
    alone: list[float] = []
    bare: list[float] = []
    steps: list[Callable[[], None]] = [
        lambda: timelines.append(tasks.timeline(task_zip)),
        lambda: alone.append(runner_first_line_ms(kind, work)),
    ]
    if kind.bare_command is not None:
        steps.append(lambda: bare.append(bare_first_line_ms(kind, work)))
    try:
        for _ in range(WARM_UP):
            _round(steps)
        for samples in (timelines, alone, bare):
            samples.clear()
        deadline = time.monotonic() + seconds
        while len(timelines) < count and (time.monotonic() < deadline or not timelines):
            _round(steps)
    finally:
        tasks.close()
    return _figure(kind, timelines, alone, bare)


def _round(steps: list[Callable[[], None]]) -> None:
    """In a new order each time, and out of step with everything in the pool that is periodic."""
    for step in random.sample(steps, len(steps)):
        time.sleep(random.uniform(0.0, 0.05))
        step()


def _figure(kind: RunnerKind, timelines: list[Timeline], alone: list[float], bare: list[float]) -> Figure:
    lines = [timeline.first_line for timeline in timelines]
    overhead = differences(lines, alone)
    yardsticks = {f"{kind.name} runner alone, prepare to first output": spread(alone)}
    derived = {"overhead beside the runner alone": overhead}
    if bare:
        yardsticks[kind.bare_name] = spread(bare)
        derived[f"overhead beside the {kind.bare_name.partition(' (')[0]}"] = differences(lines, bare)
    accepted = [timeline.accepted for timeline in timelines]
    started = [timeline.started for timeline in timelines]
    derived |= {
        "part: upload sent to accepted": spread(accepted),
        "part: accepted to claimed by the node": differences(started, accepted),
        "part: claimed to first line seen": differences(lines, started),
        "first line seen to end seen": differences([timeline.ended for timeline in timelines], lines),
    }
    return Figure(
        name=f"latency.{kind.name}",
        what="UploadTask sent to first line of output seen, idle pool, median (p99)",
        unit="ms",
        n=len(lines),
        value=overhead.median,
        aim=f"overhead under {AIM_MS:g} ms",
        met=overhead.median < AIM_MS,
        pool=spread(lines),
        yardsticks=dict(yardsticks),
        derived=dict(derived),
    )
