"""`python -m benchmarks.simulate`: virtual nodes and tasks against the real dispatcher, Valkey and Celery.

Starts its own Valkey and database in a temporary folder, on loopback only, and removes them. Ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks.pool import BenchmarkError, stop_on_signals
from benchmarks.simulation import ageing, brim, celery_flow, engine, life, reports
from benchmarks.simulation.checks import Violations, check
from benchmarks.simulation.packing import packing_of
from benchmarks.simulation.result import Result
from benchmarks.simulation.stage import Stage, fill, open_stage
from benchmarks.simulation.tables import show
from benchmarks.simulation.workload import Workload

SECTIONS = ("engine", "celery", "reports", "brim")
FOLDER = Path("bench-results")
SMALLEST_WITH_OTHERS, LARGEST = 1000, 100_000
BRIM_NODES, BRIM_TASKS = 200, 5000
# A node has room for about a dozen: the other sizes are not filled either.
TASKS_OF_A_NODE = 4
MOST_SINGLES, BRIEF_SINGLES = 1000, 500
MOST_HINTS = 10_000
WATCH_SECONDS = 12.0
# Reports outlive what is measured without a process that writes them.
LATE_SECONDS = 60.0
DEFAULT_LATE_SECONDS = 15.0


def main() -> int:
    given = _arguments()
    began, load = time.monotonic(), os.getloadavg()[0]
    logging.getLogger("dispatcher").setLevel(logging.ERROR)
    _end_in_time(given.most_seconds)
    result = Result(nodes=given.nodes, tasks=given.tasks, seed=given.seed, users=given.users)
    folder = Path(tempfile.mkdtemp(prefix="hivemind-simulate-"))
    try:
        _measure(given, folder, result)
    except KeyboardInterrupt:
        result.failed.append("the rest: interrupted, or out of time")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.seconds, result.load = time.monotonic() - began, (load, os.getloadavg()[0])
    text = json.dumps(result.as_object(), indent=2)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text + "\n", encoding="utf-8")
    if given.json:
        print(text)
    else:
        console = Console(width=max(110, Console().width))
        show(result, console)
        console.print(f"\nJSON in {given.output}; {result.seconds:.0f} s in all")
    return 1 if result.failed or result.violations.total() else 0


def _measure(given: argparse.Namespace, folder: Path, result: Result) -> None:
    if "engine" in given.only:
        for nodes in _sizes(given):
            with _taken(result, f"the engine with {nodes:,} nodes"):
                _engine(given, folder / f"engine{nodes}", result, nodes)
        with _taken(result, "ageing"):
            _say("ageing")
            result.ageing = ageing.measure(folder / "ageing", given.seed, result.violations)
    if "celery" in given.only:
        with (
            _taken(result, "the way through Celery"),
            _stage(given, folder / "celery", LATE_SECONDS) as stage,
        ):
            _say(f"through Celery, {given.dispatchers} dispatcher process(es)")
            hints = min(given.tasks, MOST_HINTS)
            workload = Workload(given.seed + 1, given.users)
            result.flow = celery_flow.measure(stage, workload, hints, given.dispatchers)
            _add(result.violations, check(stage))
    if "reports" in given.only:
        with _taken(result, "reports"), _stage(given, folder / "reports", DEFAULT_LATE_SECONDS) as stage:
            _say("reports, and nodes that fall silent")
            workload = Workload(given.seed + 2, given.users)
            ids = stage.add_tasks(workload.tasks(given.nodes // 2, time.time()))
            engine.place_whole(stage, ids)
            result.reports = reports.measure(stage, WATCH_SECONDS, random.Random(given.seed))
    if "brim" in given.only:
        with _taken(result, "the brim"):
            _say("to the brim, by one dispatcher and by two")
            result.brims = brim.measure(
                folder, seed=given.seed, users=given.users, nodes=given.brim_nodes, tasks=given.brim_tasks
            )
            for run in result.brims:
                _add(result.violations, run.violations)
    if given.plot is not None and result.engines:
        from benchmarks.simulation.plot import draw  # noqa: PLC0415 - matplotlib is a development extra

        draw(result.engines, given.plot)


def _engine(given: argparse.Namespace, folder: Path, result: Result, nodes: int) -> None:
    asked = nodes == given.nodes
    workload = Workload(given.seed, given.users)
    with open_stage(folder, node_late_seconds=LATE_SECONDS) as stage:
        _say(f"{nodes:,} nodes: registering")
        fill(stage, workload, nodes)
        tasks = given.tasks if asked else min(given.tasks, TASKS_OF_A_NODE * nodes)
        _say(f"{nodes:,} nodes: placing {tasks:,} tasks")
        singles = min(tasks, MOST_SINGLES if asked else BRIEF_SINGLES)
        result.engines.append(engine.measure(stage, workload, tasks, singles, briefly=not asked))
        if not asked:
            _add(result.violations, check(stage))
            return
        result.packing = packing_of(stage)
        _say(f"{nodes:,} nodes: tasks come and end, nodes vanish")
        result.life = life.live_through(
            stage,
            workload,
            random.Random(given.seed),
            comings=max(10, min(given.tasks // 4, 4000)),
            endings=max(10, min(given.tasks // 4, 2000)),
            node_losses=max(5, min(nodes // 50, 100)),
        )
        _add(result.violations, result.life.violations)


@contextlib.contextmanager
def _stage(given: argparse.Namespace, folder: Path, late_seconds: float) -> Iterator[Stage]:
    with open_stage(folder, node_late_seconds=late_seconds) as stage:
        fill(stage, Workload(given.seed, given.users), given.nodes)
        yield stage


def _sizes(given: argparse.Namespace) -> list[int]:
    """The other sizes, and in its place the one that was asked for."""
    if given.sweep_sizes is not None:
        others = [int(size) for size in given.sweep_sizes.split(",") if size]
    elif given.nodes >= SMALLEST_WITH_OTHERS:
        others = [given.nodes // 10, min(LARGEST, given.nodes * 10)]
    else:
        others = []
    return sorted({given.nodes, *others})


def _add(total: Violations, found: Violations) -> None:
    total.counts += found.counts
    total.examples += found.examples


@contextlib.contextmanager
def _taken(result: Result, what: str) -> Iterator[None]:
    """One part that fails does not keep the others from being measured."""
    try:
        yield
    except BenchmarkError as error:
        result.failed.append(f"{what}: {error}")
        _say(result.failed[-1])


def _say(line: str) -> None:
    print(f"simulate: {line}", file=sys.stderr, flush=True)


def _end_in_time(most_seconds: int) -> None:
    stop_on_signals()

    def out_of_time(_number: int, _frame: object) -> None:
        _say(f"{most_seconds} s are over")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(most_seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--nodes", type=_count, default=10_000, help="virtual nodes (default 10000)")
    parser.add_argument("--tasks", type=_count, default=20_000, help="tasks (default 20000)")
    parser.add_argument("--users", type=_count, default=200, help="users that own both (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same nodes and tasks")
    parser.add_argument("--only", type=_sections, default=SECTIONS, metavar=",".join(SECTIONS))
    parser.add_argument("--dispatchers", type=_count, default=1, help="dispatcher processes behind Celery")
    parser.add_argument("--brim-nodes", type=_count, default=BRIM_NODES)
    parser.add_argument("--brim-tasks", type=_count, default=BRIM_TASKS)
    parser.add_argument(
        "--sweep-sizes",
        metavar="N,N,…",
        help="other sizes of fleet for the engine (default: a tenth and ten times as many nodes)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="cost against nodes, as a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--output", type=Path, metavar="FILE", default=FOLDER / "simulate.json")
    parser.add_argument("--most-seconds", type=_count, default=600, help="it is ended then (default 600)")
    return parser.parse_args()


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"no section is called {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
