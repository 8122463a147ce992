"""`python -m benchmarks.soak`: does a pool that runs tasks without end stay as large as it was?

`hivemind up` on a folder of its own, with seconds instead of days after which results, outputs and tasks go.
What it keeps is measured all the while; a CSV and a plot show it. Past the first rounds nothing may grow but
the ledger, which is kept for ever: how much that is for each task is told. Exit code 1 where something grows.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import grpc

from benchmarks.pool import BenchmarkError, Pool, stop_on_signals
from benchmarks.soak_plot import plot
from benchmarks.tasks import Tasks, package
from hivemind import NodePoolClient
from hivemind.errors import ClientError
from nodepool.domain.tasks.retention import DAY_SECONDS

_RESULT_SECONDS, _LOG_SECONDS, _TASK_SECONDS = 30.0, 45.0, 60.0
_WAITING = 100
_SAMPLE_SECONDS = 5.0
# Of the middle of the run; more is growth.
_PLATEAU = 1.3
# A shell, since what counts is what a task leaves, and an interpreter's start takes longer than all of it.
_SCRIPT = "yes '{number} ' | head -n 200\nhead -c 20000 /dev/urandom >out.bin\n"
# Whatever is small may move by as much without growing.
_SLACK = {"storage_bytes": 4 << 20, "agent_bytes": 8 << 20, "broker_bytes": 4 << 20, "log_bytes": 32 << 20}


@dataclass(frozen=True, slots=True)
class Sample:
    """What the pool keeps at one moment; `rows_bytes` is the database without what is free in it."""

    seconds: float
    tasks_done: int
    storage_bytes: int
    agent_bytes: int
    log_bytes: int
    broker_bytes: int
    rows_bytes: int
    database_bytes: int
    tasks: int
    attempts: int
    ledger_entries: int


NAMES = tuple(field.name for field in fields(Sample))
# The ledger stays, and so the rows of it.
_LEVEL = ("storage_bytes", "agent_bytes", "log_bytes", "broker_bytes", "tasks", "attempts")


class Meter:
    """Asks the pool as its operator would: `hivemind admin disk`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._client = NodePoolClient(pool.address)
        password = (pool.data_dir / "secrets/operator").read_text(encoding="utf-8").strip()
        self._client.login("operator", password)
        self._began = time.monotonic()

    def sample(self, done: int) -> Sample:
        found = self._client.operator.disk()
        kept = {it.kind: it.count for it in found.kept}
        folder = self._pool.data_dir
        return Sample(
            seconds=time.monotonic() - self._began,
            tasks_done=done,
            storage_bytes=_bytes_in(folder / "storage"),
            agent_bytes=_bytes_in(folder / "agents"),
            log_bytes=_bytes_in(folder / "logs"),
            broker_bytes=found.broker_bytes,
            rows_bytes=found.database_bytes - found.database_reusable_bytes,
            database_bytes=found.database_bytes,
            tasks=kept["tasks"],
            attempts=kept["attempts"],
            ledger_entries=kept["ledger entries"],
        )

    def close(self) -> None:
        self._client.close()


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def run(pool: Pool, count: int) -> Iterator[Sample]:
    """So many tasks, as fast as they end; a sample every few seconds, and some after the last one."""
    meter, tasks = Meter(pool), Tasks(pool)
    waiting: deque[str] = deque()
    next_at = 0.0
    try:
        for number in range(count):
            waiting.append(tasks.upload(package(_SCRIPT.format(number=number), "run.sh")))
            if len(waiting) >= _WAITING:
                _wait(tasks, waiting.popleft())
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + _SAMPLE_SECONDS
                yield meter.sample(number + 1 - len(waiting))
        while waiting:
            _wait(tasks, waiting.popleft())
        yield meter.sample(count)
    finally:
        tasks.close()
        meter.close()


def _wait(tasks: Tasks, task_id: str) -> None:
    """One that is not there any more has ended, and its time is over."""
    try:
        tasks.wait_success(task_id)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


def growth(samples: Sequence[Sample]) -> list[str]:
    """What the last quarter has more of than the second one."""
    quarter = len(samples) // 4
    if quarter < 1:
        return ["there are too few samples to say anything: run more tasks"]
    middle, last = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for name in _LEVEL:
        before, after = (max(getattr(it, name) for it in part) for part in (middle, last))
        if after > _PLATEAU * before + _SLACK.get(name, 50):
            found.append(f"{name} grew from {before:,} to {after:,}")
    return found


def told(samples: Sequence[Sample]) -> Iterator[str]:
    quarter = max(1, len(samples) // 4)
    middle, last = samples[quarter], samples[-1]
    between = max(1, last.tasks_done - middle.tasks_done)
    yield f"{last.tasks_done:,} tasks in {last.seconds:.0f} s"
    for name in _LEVEL:
        highest = max(getattr(it, name) for it in samples)
        first, end = getattr(middle, name), getattr(last, name)
        yield f"{name}: {first:,} after a quarter, {end:,} at the end, at most {highest:,}"
    grown = (last.rows_bytes - middle.rows_bytes) / between
    yield f"the ledger: {last.ledger_entries:,} entries, {grown:,.0f} bytes of the database a task"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument(
        "--output", type=Path, default=Path("build/soak"), help="folder of soak.csv and soak.svg"
    )
    chosen = parser.parse_args()
    stop_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="hivemind-soak-"))
    folder.chmod(0o711)
    settings = {
        "RESULT_DAYS": _RESULT_SECONDS, "LOG_DAYS": _LOG_SECONDS, "TASK_DAYS": _TASK_SECONDS,
    }  # fmt: skip
    days = {name: f"{seconds / DAY_SECONDS:.9f}" for name, seconds in settings.items()}
    samples: list[Sample] = []
    try:
        with Pool(folder / "pool", agents=1, runner="process", flower=False, settings=days) as pool:
            for sample in run(pool, chosen.tasks):
                samples.append(sample)
                print(f"soak: {sample.tasks_done:,} of {chosen.tasks:,} tasks", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("soak: stopped early; what follows is of the tasks until then", file=sys.stderr)
    except (BenchmarkError, ClientError, grpc.RpcError, OSError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if samples:
            _write(chosen.output, samples)
    if not samples:
        return 2
    for line in told(samples):
        print(line)
    problems = growth(samples)
    print("\n".join(problems) or "nothing grows but the ledger")
    return 1 if problems else 0


def _write(folder: Path, samples: Sequence[Sample]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "soak.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows(astuple(sample) for sample in samples)
    plot(folder / "soak.svg", samples)


if __name__ == "__main__":
    sys.exit(main())
