"""Worker processes as `hivemind up` starts them, and the messages that are laid before them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil
import redis

from benchmarks.pool import BenchmarkError
from benchmarks.simulation.children import start_child, stop_child
from benchmarks.simulation.stage import Stage
from celeryconfig import task_queues
from local_pool.plan import dispatcher_part
from nodepool.messaging.names import PLACE, node_queue, partition_queue
from nodepool.messaging.publisher import Hint, Publisher, make_app

T = TypeVar("T")
POOL_DB, BARE_DB, STORE_DB = 0, 1, 2
_QUEUES = tuple(queue.name for queue in task_queues)
_READY_SECONDS = 60.0
_LOG_TAIL = 1500
_AT_ONCE = 500
_LENGTHS = "local n = 0; for i = 1, #KEYS do n = n + redis.call('LLEN', KEYS[i]) end; return n"


def url_of(stage: Stage, database: int) -> str:
    """The stage's broker, another database of it."""
    return f"{stage.settings.effective_redis_url.rpartition('/')[0]}/{database}"


def log_of(stage: Stage, name: str) -> Path:
    return stage.folder / f"{name}.log"


@contextmanager
def worker(
    stage: Stage, name: str, environment: Mapping[str, str], *, app: str = "", database: int = POOL_DB
) -> Iterator[psutil.Process]:
    """A dispatcher's process, or with the same arguments another app's. Ready inside."""
    url = url_of(stage, database)
    part = dispatcher_part({"CELERY_BROKER_URL": url, "REDIS_URL": url, **environment})
    argv = list(part.argv)
    argv[argv.index("-n") + 1] = f"{name}@%h"
    if app:
        argv[argv.index("-A") + 1] = app
    path = log_of(stage, name)
    with path.open("wb") as log:
        child = start_child(argv, part.env, log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while " ready" not in path.read_text(errors="replace"):
            if child.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{name} did not start: {path.read_text(errors='replace')[-_LOG_TAIL:]}")
            time.sleep(0.05)
        yield psutil.Process(child.pid)
    finally:
        stop_child(child)


def dispatcher_environment(stage: Stage, **settings: Any) -> dict[str, str]:
    return {
        "DB_PATH": str(stage.settings.db_path),
        "NODE_LATE_SECONDS": f"{stage.settings.node_late_seconds:g}",
        "PROBE_HOURS": f"{stage.settings.probe_hours:g}",
        "AUDIT_SHARE": f"{stage.settings.audit_share:g}",
        **{name.upper(): str(value) for name, value in settings.items()},
    }


class Hints:
    """Messages that are made first and laid into the queues all at once."""

    def __init__(self, stage: Stage, rows: Sequence[Mapping[str, Any]]) -> None:
        self._store = redis.Redis.from_url(url_of(stage, STORE_DB))
        self._urls = {database: url_of(stage, database) for database in (POOL_DB, BARE_DB)}
        app = make_app(stage.settings, "simulation")
        store = url_of(stage, STORE_DB)
        app.conf.update(broker_url=store, broker_read_url=store, broker_write_url=store)
        publisher = Publisher(app)
        publisher.send_all(
            [Hint(PLACE, row["id"], partition_queue(row["tier"], row["region"])) for row in rows]
        )
        publisher.close()
        self.count = _total(self._store, _QUEUES)
        if self.count != len(rows):
            raise BenchmarkError(f"only {self.count} of {len(rows)} hints could be made")

    def lay(self, database: int) -> float:
        """When they were there, by `time.perf_counter`."""
        with self._store.pipeline(transaction=True) as pipe:
            for queue in _QUEUES:
                pipe.copy(queue, queue, destination_db=cast(Any, database))
            pipe.execute()
        return time.perf_counter()

    def left(self, database: int) -> int:
        with redis.Redis.from_url(self._urls[database]) as client:
            return _total(client, _QUEUES)

    def close(self) -> None:
        self._store.close()


def told(stage: Stage) -> int:
    """Messages in the queues of all nodes."""
    return _total(stage.dispatcher.redis, [node_queue(node_id) for node_id in stage.node_ids])


def _total(client: redis.Redis, queues: Sequence[str]) -> int:
    count = 0
    for start in range(0, len(queues), _AT_ONCE):
        some = queues[start : start + _AT_ONCE]
        count += int(cast(int, client.eval(_LENGTHS, len(some), *some)))
    return count


def until_still(count: Callable[[], T], still_seconds: float, most_seconds: float) -> tuple[T, float]:
    """The count when it has not changed for so long, and when it last did (`time.perf_counter`)."""
    deadline = time.monotonic() + most_seconds
    now, at = count(), time.perf_counter()
    while time.perf_counter() - at < still_seconds and time.monotonic() < deadline:
        time.sleep(0.1)
        if (after := count()) != now:
            now, at = after, time.perf_counter()
    return now, at
