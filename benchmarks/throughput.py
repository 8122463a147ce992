"""(b) Many small tasks through the pool against the same through the runner with nothing around it."""

from __future__ import annotations

from benchmarks.bare import DEFAULTS, SCRIPT, RunnerKind, Work, run_many_seconds
from benchmarks.figures import Figure
from benchmarks.pool import Pool
from benchmarks.tasks import Tasks, package

AIMS = {"docker": 0.9, "process": 0.3}
UPLOADS_AT_ONCE = 8


def measure(pool: Pool, kind: RunnerKind, count: int) -> Figure:
    """Half of the bare runs before the pool's and half after, so that a drift of the machine evens out."""
    at_once = pool.slots(DEFAULTS.default_task_memory_mb)
    work = Work(kind)
    tasks = Tasks(pool)
    half = count // 2
    try:
        # So that neither side pays for what only the first run costs.
        run_many_seconds(kind, work, at_once, at_once)
        tasks.run_many_seconds(package(SCRIPT), at_once, UPLOADS_AT_ONCE)
        before = run_many_seconds(kind, work, half, at_once)
        through = tasks.run_many_seconds(package(SCRIPT), count, UPLOADS_AT_ONCE)
        after = run_many_seconds(kind, work, count - half, at_once)
    finally:
        tasks.close()
    ratio = (before + after) / through
    return Figure(
        name=f"throughput.{kind.name}",
        what=f"{count} small tasks, {at_once} at once, first upload to last COMPLETED seen",
        unit="s",
        n=count,
        value=ratio,
        aim=f"ratio of at least {AIMS[kind.name]:g}",
        met=ratio >= AIMS[kind.name],
        pool=through,
        yardsticks={f"{kind.name} runner alone, {at_once} at once": before + after},
        derived={
            "tasks a second through the pool": count / through,
            "tasks a second by the runner alone": count / (before + after),
            "pool's own time a task, ms": (through - before - after) / count * 1e3,
        },
        notes=[f"the runner alone: first half {before:.2f} s, second half {after:.2f} s"],
    )
