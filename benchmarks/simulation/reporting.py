"""What the agents of the virtual nodes write: their reports.

As a program (`python -m benchmarks.simulation.reporting`) it is all agents at once, so that the process that
is measured has nothing to do with it. Its order comes in on standard input as one line of JSON; after that,
every line is the id of a node that falls silent, answered with the time of that node's last report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import redis

from benchmarks.simulation.children import start_child, stop_child
from nodepool.stores.redis import keys

_AT_ONCE = 1000
_TICK_SECONDS = 0.05
_MEASURED = {"cpu_percent": 12.5, "memory_bytes": 100 << 20, "cpu_score": 100.0}


def report_text(attempt_ids: Sequence[str], at: float) -> str:
    running = [{"attempt_id": attempt_id, **_MEASURED} for attempt_id in attempt_ids]
    return json.dumps(
        {"v": 1, "at": round(at, 3), "cpu_percent": 12.5, "memory_percent": 40.0, "running": running}
    )


def write_reports(
    client: redis.Redis, node_ids: Sequence[str], running: Mapping[str, Sequence[str]] | None = None
) -> None:
    now = time.time()
    idle = report_text((), now)
    for start in range(0, len(node_ids), _AT_ONCE):
        with client.pipeline(transaction=False) as pipe:
            for node_id in node_ids[start : start + _AT_ONCE]:
                attempt_ids = running.get(node_id) if running else None
                text = report_text(attempt_ids, now) if attempt_ids else idle
                pipe.set(keys.report(node_id), text, ex=keys.REPORT_TTL_SECONDS)
            pipe.execute()


class Reporters:
    """The other process, from this one's side."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def silence(self, node_id: str) -> float:
        """The node reports no more; when it last did, Unix seconds."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{node_id}\n".encode())
        self._child.stdin.flush()
        return float(self._child.stdout.readline())


@contextmanager
def reporting(
    url: str,
    node_ids: Sequence[str],
    period_seconds: float,
    running: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Reporters]:
    """Every node reports once a period, evenly spread."""
    order = {"url": url, "node_ids": list(node_ids), "period": period_seconds, "running": running or {}}
    child = start_child(
        [sys.executable, "-m", "benchmarks.simulation.reporting"],
        {},
        None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdin is not None
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()
        yield Reporters(child)
    finally:
        stop_child(child)


class _Fleet:
    def __init__(self, order: Mapping[str, object]) -> None:
        self._client = redis.Redis.from_url(str(order["url"]))
        self._ids: list[str] = order["node_ids"]  # type: ignore[assignment]
        self._period = float(str(order["period"]))
        self._running: dict[str, list[str]] = order["running"]  # type: ignore[assignment]
        self._lock = threading.Lock()
        self._silent: set[str] = set()
        self._reported_at: dict[str, float] = {}

    def silence(self, node_id: str) -> float:
        with self._lock:
            self._silent.add(node_id)
            return self._reported_at.get(node_id, time.time())

    def report_for_ever(self) -> None:
        began, done = time.monotonic(), 0
        while True:
            due = int(len(self._ids) * (time.monotonic() - began) / self._period)
            some = [self._ids[number % len(self._ids)] for number in range(done, due)]
            done = due
            with self._lock:
                talking = [node_id for node_id in some if node_id not in self._silent]
                write_reports(self._client, talking, self._running)
                self._reported_at |= dict.fromkeys(talking, time.time())
            time.sleep(_TICK_SECONDS)


def main() -> None:
    fleet = _Fleet(json.loads(sys.stdin.readline()))
    threading.Thread(target=fleet.report_for_ever, daemon=True).start()
    for line in sys.stdin:
        print(fleet.silence(line.strip()), flush=True)


if __name__ == "__main__":
    main()
