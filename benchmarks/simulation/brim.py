"""(5) A small fleet filled to the brim, by one dispatcher process and by two side by side."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.simulation.checks import Violations, check
from benchmarks.simulation.packing import Packing, packing_of
from benchmarks.simulation.reporting import reporting
from benchmarks.simulation.stage import Stage, fill, open_stage
from benchmarks.simulation.workers import (
    POOL_DB,
    Hints,
    dispatcher_environment,
    told,
    until_still,
    worker,
)
from benchmarks.simulation.workload import Workload

_STILL_SECONDS = 5.0
_MOST_SECONDS = 90.0
_LOOKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Brim:
    """One run. Those who wait at the end fit nowhere, or are among the violations."""

    dispatchers: int
    placed: int
    seconds: float
    packing: Packing
    violations: Violations


def measure(
    folder: Path, *, seed: int, users: int, nodes: int, tasks: int, dispatchers: tuple[int, ...] = (1, 2)
) -> list[Brim]:
    return [
        _run(folder / f"brim{count}", Workload(seed, users), nodes, tasks, count) for count in dispatchers
    ]


def _run(folder: Path, workload: Workload, nodes: int, tasks: int, dispatchers: int) -> Brim:
    """The same workload for each number of dispatchers."""
    with open_stage(folder, node_late_seconds=60.0) as stage:
        fill(stage, workload, nodes)
        rows = workload.tasks(tasks, time.time())
        with (
            closing(Hints(stage, rows)) as hints,
            reporting(stage.settings.effective_redis_url, stage.node_ids, 3.0),
            ExitStack() as stack,
        ):
            for number in range(dispatchers):
                stack.enter_context(worker(stage, f"dispatcher{number}", dispatcher_environment(stage)))
            stage.add_tasks(rows)
            began = hints.lay(POOL_DB)
            placed, ended = until_still(lambda: told(stage), _STILL_SECONDS, _MOST_SECONDS)
            found = _settled(stage)
        return Brim(
            dispatchers=dispatchers,
            placed=placed,
            seconds=ended - began,
            packing=packing_of(stage),
            violations=found,
        )


def _settled(stage: Stage) -> Violations:
    for _ in range(_LOOKS):
        found = check(stage)
        if not found.total():
            break
        until_still(lambda: told(stage), _STILL_SECONDS, _MOST_SECONDS)
    return found
