"""`python -m benchmarks`: takes the figures that were asked for, shows a table, writes JSON."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from rich.console import Console

from benchmarks import latency, submit, throughput
from benchmarks.bare import RunnerKind, close, docker_kind, process_kind
from benchmarks.figures import FigureReport, show
from benchmarks.pool import BenchmarkError, Pool, stop_on_signals
from hivemind import ClientError
from worker_agent.runners.base import RunRefusedError

SECTIONS = ("latency", "throughput", "submit")
KINDS = {"process": process_kind, "docker": docker_kind}
# A benchmark that hangs is ended, and what it started with it.
MOST_SECONDS = 290


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    rounds: dict[str, int]  # of latency, by kind
    seconds: float  # that latency may take of each kind
    tasks: int
    uploads: int
    upload_rounds: int


FULL = Size(rounds={"process": 200, "docker": 50}, seconds=40.0, tasks=200, uploads=1000, upload_rounds=3)
QUICK = Size(rounds={"process": 30, "docker": 10}, seconds=15.0, tasks=40, uploads=300, upload_rounds=1)


def main() -> int:
    given = _arguments()
    sections = tuple(given.section) or SECTIONS
    console = Console(width=max(100, Console().width))
    report = FigureReport()
    began = time.monotonic()
    _end_in_time()
    folder = Path(tempfile.mkdtemp(prefix="hivemind-bench-"))
    # Tasks run as users of their own, who go through it.
    folder.chmod(0o711)
    try:
        _measure(sections, QUICK if given.quick else FULL, folder, report, flower=not given.no_flower)
    except KeyboardInterrupt:
        report.failed.append("the rest: interrupted, or out of time")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(report, console)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(report.as_json(), encoding="utf-8")
        console.print(f"\nJSON in {given.json}")
    console.print(f"{time.monotonic() - began:.0f} s in all")
    return 1 if report.failed or not report.figures else 0


def _measure(
    sections: tuple[str, ...], size: Size, folder: Path, report: FigureReport, *, flower: bool
) -> None:
    """What takes longest comes last, so that a slow machine loses only that."""
    _measure_runner("process", sections, size, folder, report, flower=flower)
    if "submit" in sections:
        with _taken(report, "submission"):
            _say("starting a pool without agents")
            with Pool(folder / "pool-submit", agents=0, runner="process", flower=flower) as pool:
                _say("submission")
                report.figures += submit.measure(pool, size.uploads, size.upload_rounds)
    _measure_runner("docker", sections, size, folder, report, flower=flower)


def _measure_runner(
    name: str, sections: tuple[str, ...], size: Size, folder: Path, report: FigureReport, *, flower: bool
) -> None:
    wanted = [section for section in sections if section != "submit"]
    if not wanted:
        return
    with _taken(report, f"{' and '.join(wanted)} with the {name} runner"), _kind(name, folder) as kind:
        _say(f"starting a pool with one agent, {name} runner")
        with Pool(folder / f"pool-{name}", agents=1, runner=name, image=kind.image, flower=flower) as pool:
            if "latency" in wanted:
                _say(f"latency, {name}")
                report.figures.append(latency.measure(pool, kind, size.rounds[name], size.seconds))
            if "throughput" in wanted:
                _say(f"throughput, {name}")
                report.figures.append(throughput.measure(pool, kind, size.tasks))


@contextlib.contextmanager
def _taken(report: FigureReport, what: str) -> Iterator[None]:
    """One part that cannot be had, or that fails, does not keep the others from being measured."""
    try:
        yield
    except RunRefusedError as error:
        report.skipped.append(f"{what}: {error}")
        _say(report.skipped[-1])
    except (BenchmarkError, ClientError, grpc.RpcError) as error:
        report.failed.append(f"{what}: {error}")
        _say(report.failed[-1])


@contextlib.contextmanager
def _kind(name: str, folder: Path) -> Iterator[RunnerKind]:
    make: Callable[[Path], RunnerKind] = KINDS[name]
    kind = make(folder / name)
    try:
        yield kind
    finally:
        close(kind)


def _say(line: str) -> None:
    print(f"benchmarks: {line}", file=sys.stderr, flush=True)


def _end_in_time() -> None:
    stop_on_signals()

    def out_of_time(_number: int, _frame: object) -> None:
        _say(f"{MOST_SECONDS} s are over")
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(MOST_SECONDS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("section", nargs="*", choices=[*SECTIONS, []], metavar="|".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer samples: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path("bench-results/bench.json"))
    parser.add_argument("--no-flower", action="store_true", help="pools without Flower")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
