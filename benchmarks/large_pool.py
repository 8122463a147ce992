"""`python -m benchmarks.large_pool`: what a pool costs in which a million tasks have ended, beside an empty
one.

One pool of `hivemind up` without agents: measured empty, filled (benchmarks/filled_pool.py), measured
again. CPU is what the kernel counted for the processes; it moves less than the clock when the machine has
other work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import select, text

from benchmarks import filled_pool
from benchmarks.bare import SCRIPT
from benchmarks.ledger import fresh_database
from benchmarks.pool import Pool, stop_on_signals
from benchmarks.tasks import Tasks, package
from hivemind import NodePoolClient
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.tables import users

_OWNERS = 10
_PAGE = 100  # of `hivemind ls`
_PARTS = ("gateway", "dispatcher")
Found = dict[str, float]


def main() -> int:
    given = _arguments()
    stop_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="hivemind-bench-"))
    folder.chmod(0o711)
    found: dict[str, Any] = {}
    try:
        found["sqlite"] = _measure(folder / "sqlite", f"sqlite:///{folder / 'sqlite/pool.db'}", {}, given)
        if given.postgres:
            with fresh_database(given.postgres) as url:
                found["postgresql"] = _measure(folder / "postgres", url, {"DATABASE_URL": url}, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        print(json.dumps({"tasks": given.tasks, "databases": found}, indent=2))
    else:
        _show(found, given.tasks)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_pool", description=__doc__)
    parser.add_argument(
        "--tasks", type=int, default=1_000_000, help="that have ended; about 5 KB of disk each"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the pool is left alone")
    parser.add_argument("--calls", type=int, default=100, help="of each kind")
    parser.add_argument("--postgres", default="", help="URL of a server, to measure there as well")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


def _measure(folder: Path, url: str, settings: dict[str, str], given: argparse.Namespace) -> dict[str, Found]:
    with Pool(folder, agents=0, runner="process", flower=False, settings=settings) as pool:
        with contextlib.closing(Database(url)) as database:
            owners = _owner_ids(database)
            # A page of the list, so that both show the same.
            _fill(database, owners, 2 * _PAGE, seed=1)
            empty = _figures(pool, given)
            began = time.monotonic()
            _fill(database, owners, given.tasks, seed=2)
        _say(f"{given.tasks} tasks after {time.monotonic() - began:.0f} s")
        full = _figures(pool, given)
    return {"empty": empty, "full": full}


def _owner_ids(database: Database) -> list[int]:
    """Whoever asks, and others."""
    owner = database.read(
        lambda c: c.execute(select(users.c.id).where(users.c.username == "bench")).scalar_one()
    )
    return [owner, *database.write(lambda c: filled_pool.people(c, _OWNERS, time.time()))]


def _fill(database: Database, owners: list[int], count: int, *, seed: int) -> None:
    filled_pool.fill(database, count, owners, now=time.time(), seed=seed)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        # As either server does it by itself after a while.
        connection.execute(
            text("PRAGMA wal_checkpoint(TRUNCATE)" if database.is_sqlite else "VACUUM ANALYZE")
        )


def _figures(pool: Pool, given: argparse.Namespace) -> Found:
    before = _cpu(pool)
    time.sleep(given.seconds)
    after = _cpu(pool)
    found = {
        f"{part}, idle, % of a core": 100 * (after[part] - before[part]) / given.seconds for part in _PARTS
    }
    task_zip = package(SCRIPT)
    with NodePoolClient(pool.address, token=pool.token) as client, _tasks(pool) as tasks:
        found |= _calls(pool, "ls", lambda: list(client.tasks(limit=_PAGE)), given.calls)
        sent: list[str] = []
        found |= _calls(pool, "submit", lambda: sent.append(tasks.upload(task_zip)), given.calls)
        for task_id in sent:
            client.stop(task_id)
    return found


@contextlib.contextmanager
def _tasks(pool: Pool) -> Iterator[Tasks]:
    tasks = Tasks(pool)
    try:
        yield tasks
    finally:
        tasks.close()


def _calls(pool: Pool, name: str, call: Callable[[], object], count: int) -> Found:
    call()
    taken = []
    before = _cpu(pool)["gateway"]
    for _ in range(count):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    cpu = _cpu(pool)["gateway"] - before
    return {
        f"{name}, median ms": 1000 * median(taken),
        f"{name}, ms of the gateway's CPU": 1000 * cpu / count,
    }


def _cpu(pool: Pool) -> Found:
    """Seconds that each part has used, with its children."""
    used = dict.fromkeys(_PARTS, 0.0)
    for process in pool.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            part = next((part for part in _PARTS if part in process.cmdline()), None)
            if part is not None:
                times = process.cpu_times()
                used[part] += times.user + times.system
    return used


def _show(found: dict[str, dict[str, Found]], tasks: int) -> None:
    table = Table("database", "figure", "empty", f"{tasks:,} ended", "ratio")
    for name, figures in found.items():
        for what, empty in figures["empty"].items():
            full = figures["full"][what]
            ratio = f"{full / empty:.2f}" if empty else ""
            table.add_row(name, what, f"{empty:.2f}", f"{full:.2f}", ratio)
    Console(width=max(100, Console().width)).print(table)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
