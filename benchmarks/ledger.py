"""`python -m benchmarks.ledger [--json]`: tasks settled a second by many writers, beside bare inserts.

A settled task is two transactions, as in the pool: one stores the task and holds its price, one ends the
hold with a payment, a fee and what goes back. Beside it, in the same run and with as many writers, stand
transactions of one bare insert each. SQLite always; PostgreSQL where --postgres or
HIVEMIND_TEST_POSTGRES_URL names a server, on which a database is made and dropped again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, Text, bindparam, create_engine, insert, text, update
from sqlalchemy.engine import make_url

from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger import api as ledger_store
from nodepool.stores.sql.ledger.api import Provider
from nodepool.stores.sql.migrate import migrate
from nodepool.stores.sql.tables import tasks, users

WRITERS = 40
GRANT = 10**12
PRICE, MINUTES, PAID, FEE_PERCENT = 3, 60, 7, 10
BARE = Table("benchmark_rows", MetaData(), Column("id", Integer, primary_key=True), Column("what", Text))
# Made once, as the pool's own are.
_INSERT_BARE = insert(BARE).values(what="a row of about this length")
_END_TASK = update(tasks).where(tasks.c.id == bindparam("task")).values(state="SUCCEEDED")


def main() -> int:
    given = _arguments()
    urls = {"postgresql": given.postgres} if given.postgres else {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hivemind-bench-") as folder:
        found["sqlite"] = _measure(f"sqlite:///{Path(folder) / 'pool.db'}", given)
    for name, url in urls.items():
        with fresh_database(url) as fresh:
            found[name] = _measure(fresh, given)
    if given.json:
        print(json.dumps({"writers": given.writers, "databases": found}, indent=2))
    else:
        _show(found, given.writers)
    return 0 if all(it["problems"] == [] for it in found.values()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each of the measurements")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", default=os.environ.get("HIVEMIND_TEST_POSTGRES_URL", ""))
    return parser.parse_args()


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    name = f"hivemind_bench_{secrets.token_hex(4)}"
    server = make_url(url).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _measure(url: str, given: argparse.Namespace) -> dict[str, Any]:
    database = Database(url)
    try:
        migrate(database)
        database.write(BARE.create)
        bench = Bench(database, given.writers)
        settled, bare = [], []
        for _ in range(given.rounds):
            bare.append(bench.rate(bench.insert_one, given.seconds))
            settled.append(bench.rate(bench.settle_one, given.seconds))
        began = time.perf_counter()
        report = ledger_store.verify_database(database)
        return {
            "settled_tasks_per_second": median(settled),
            "bare_inserts_per_second": median(bare),
            "settled_to_bare": median(settled) / median(bare),
            "entries": report.entries,
            "verify_seconds": time.perf_counter() - began,
            "problems": report.problems,
        }
    finally:
        database.close()


class Bench:
    """Two users, of whom one pays the other without end."""

    def __init__(self, database: Database, writers: int) -> None:
        self._database = database
        self._writers = writers
        self._numbers = itertools.count()
        self._payer, self._provider = (self._user(name) for name in ("payer", "provider"))

    def _user(self, name: str) -> int:
        row = {
            "username": name, "name_key": name, "password_hash": "", "credit_score": 50, "created_at": 0.0,
        }  # fmt: skip

        def work(connection: Any) -> int:
            user_id = int(connection.execute(insert(users).values(row).returning(users.c.id)).scalar_one())
            ledger_store.open_account(connection, user_id, grant=GRANT, now=0.0)
            return user_id

        return self._database.write(work)

    def rate(self, once: Callable[[], None], seconds: float) -> float:
        """How often a second `once` is done by all writers together."""
        together = threading.Barrier(self._writers)
        until = [0.0]

        def work(_: int) -> int:
            if together.wait() == 0:
                until[0] = time.perf_counter() + seconds
            together.wait()
            done = 0
            while time.perf_counter() < until[0]:
                once()
                done += 1
            return done

        began = time.perf_counter()
        with ThreadPoolExecutor(self._writers) as threads:
            done = sum(threads.map(work, range(self._writers)))
        return done / (time.perf_counter() - began)

    def insert_one(self) -> None:
        self._database.write(lambda c: c.execute(_INSERT_BARE))

    def settle_one(self) -> None:
        task_id = f"task_{next(self._numbers):012}"
        row = _task(task_id, self._payer)

        def submit(connection: Any) -> None:
            task_store.insert_task(connection, row)
            ledger_store.hold(connection, row, fee_percent=FEE_PERCENT, now=1.0)

        def end(connection: Any) -> None:
            connection.execute(_END_TASK, {"task": task_id})
            ledger_store.settle(connection, task_id, f"{task_id}:1", [Provider(self._provider)], PAID, 2.0)

        self._database.write(submit, sharing=ledger_store.TOGETHER, order=self._payer)
        self._database.write(end, sharing=ledger_store.TOGETHER)


def _task(task_id: str, owner_id: int) -> dict[str, Any]:
    return {
        "id": task_id, "owner_id": owner_id, "state": "RUNNING", "cpu_score": 100, "memory_gb": 2,
        "gpu_score": 0, "gpu_memory_gb": 0, "gpu_name": "", "region": "any", "tier": "high",
        "image": "image", "network": False, "max_minutes": MINUTES, "price_per_minute": PRICE,
        "package_sha256": "0" * 64, "package_bytes": 1, "created_at": 1.0, "updated_at": 1.0,
        "hinted_at": 1.0,
    }  # fmt: skip


def _show(found: dict[str, Any], writers: int) -> None:
    print(f"{writers} writers")
    for name, it in found.items():
        print(
            f"{name:12} {it['settled_tasks_per_second']:8.0f} tasks settled/s   "
            f"{it['bare_inserts_per_second']:8.0f} bare inserts/s   ratio {it['settled_to_bare']:.2f}   "
            f"{it['entries']} entries checked in {it['verify_seconds']:.2f} s"
        )
        for problem in it["problems"]:
            print(f"  {problem}")


if __name__ == "__main__":
    sys.exit(main())
