"""A pool without its ends: Valkey, SQLite and a dispatcher's parts, filled with virtual nodes and tasks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table, delete, insert

from benchmarks.pool import BenchmarkError
from benchmarks.simulation.children import start_child, stop_child
from benchmarks.simulation.reporting import write_reports
from benchmarks.simulation.workload import VirtualUser, Workload
from dispatcher.context import Dispatcher, build
from local_pool import valkey
from nodepool.clock import Clock, system_clock
from nodepool.settings import Settings
from nodepool.stores.redis import keys
from nodepool.stores.sql import nodes as node_store
from nodepool.stores.sql.tables import nodes, tasks, users

_READY_SECONDS = 20.0
_ROWS_AT_ONCE = 2000


@dataclass(slots=True)
class Stage:
    """Use `open_stage`."""

    folder: Path
    settings: Settings
    dispatcher: Dispatcher
    node_ids: list[str] = field(default_factory=list)

    def add_users(self, people: Iterable[VirtualUser]) -> None:
        self._insert(
            users,
            (
                {
                    "id": user.user_id,
                    "username": user.name,
                    "password_hash": "",
                    "credit_score": user.score,
                    "created_at": 0.0,
                }
                for user in people
            ),
        )

    def add_nodes(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Registered in SQL and Redis, and heard of just now."""
        self._insert(nodes, rows)
        dispatcher = self.dispatcher
        registered = dispatcher.database.read(node_store.active)
        dispatcher.registry.put_nodes([dispatcher.lifecycle.facts_of(row) for row in registered])
        self.node_ids = [row.id for row in registered]
        self.report()

    def add_tasks(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        self._insert(tasks, rows)
        return [row["id"] for row in rows]

    def remove_tasks(self, task_ids: Sequence[str]) -> None:
        """Of tasks that were never placed in SQL."""
        for ids in _slices(task_ids):
            self.dispatcher.database.write(lambda c: c.execute(delete(tasks).where(tasks.c.id.in_(ids))))  # noqa: B023

    def report(self, node_ids: Sequence[str] | None = None) -> None:
        """These nodes report (all, when none are named), with nothing running."""
        write_reports(self.dispatcher.redis, self.node_ids if node_ids is None else node_ids)

    def forget_reservations(self) -> None:
        """As if nothing had been placed, in Redis only."""
        for ids in _slices(self.node_ids):
            with self.dispatcher.redis.pipeline(transaction=False) as pipe:
                pipe.delete(*(key for it in ids for key in (keys.reserved(it), keys.assigned(it))))
                pipe.execute()

    def _insert(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        for some in _slices(rows):
            self.dispatcher.database.write(lambda c: c.execute(insert(table), some))  # noqa: B023


def _slices(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while some := list(islice(iterator, _ROWS_AT_ONCE)):
        yield some


def fill(stage: Stage, workload: Workload, node_count: int) -> None:
    stage.add_users(workload.users)
    stage.add_nodes(workload.nodes(node_count, time.time()))


@contextmanager
def open_stage(folder: Path, *, clock: Clock = system_clock, **settings: Any) -> Iterator[Stage]:
    """A new Valkey and a new database below `folder`; the settings are the pool's defaults but for these."""
    folder.mkdir(parents=True)
    broker = valkey.prepare(folder, {})
    with (folder / "valkey.log").open("wb") as log:
        server = start_child(broker.part.argv, {}, log)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not broker.is_ready():
            if server.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"Valkey did not start: {(folder / 'valkey.log').read_text()[-600:]}")
            time.sleep(0.02)
        # Virtual nodes answer no probes, and their results are not compared.
        settings = {"probe_hours": 0.0, "audit_share": 0.0, **settings}
        chosen = Settings.model_construct(redis_url=broker.url, db_path=folder / "pool.db", **settings)
        dispatcher = build(chosen, clock)
        try:
            yield Stage(folder, chosen, dispatcher)
        finally:
            dispatcher.close()
    finally:
        stop_child(server)
