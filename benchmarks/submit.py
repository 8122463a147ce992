"""(c) `UploadTask` accepted a second, each answered after the SQL commit, against Celery's `send_task`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc

from benchmarks.bare import SCRIPT
from benchmarks.figures import Figure, Spread, spread
from benchmarks.pool import BenchmarkError, Pool
from benchmarks.tasks import Tasks, package

AIM = 1 / 3
IN_FLIGHT = 48
CHILD_SECONDS = 180.0
HALTED_SECONDS = 1.0
ROOT = Path(__file__).resolve().parent.parent


def measure(pool: Pool, count: int, rounds: int) -> list[Figure]:
    """`count` uploads and as many messages in each round, taken in turn."""
    sent: list[float] = []
    same: list[dict[str, float]] = []
    distinct: list[dict[str, float]] = []
    _send(pool, count // 4)
    _upload(pool, count // 4, distinct=True)
    with pool.dispatcher_halted(lambda: _serves(pool)):
        for _ in range(rounds):
            sent.append(_send(pool, count)["per_second"])
            same.append(_upload(pool, count, distinct=False))
            sent.append(_send(pool, count)["per_second"])
            distinct.append(_upload(pool, count, distinct=True))
    yardstick = spread(sent)
    running = _upload(pool, count, distinct=False)
    return [
        _figure("submit.same_package", "one package under new ids", count, same, yardstick, running),
        _figure("submit.distinct_packages", "every package another", count, distinct, yardstick, None),
    ]


def _serves(pool: Pool) -> bool:
    """Whether uploads are accepted just now."""
    tasks = Tasks(pool)
    try:
        tasks.upload(package(SCRIPT), timeout_seconds=HALTED_SECONDS)
    except grpc.RpcError:
        return False
    finally:
        tasks.close()
    return True


def _figure(
    name: str,
    what: str,
    count: int,
    taken: list[dict[str, float]],
    yardstick: Spread,
    running: Mapping[str, float] | None,
) -> Figure:
    rate = spread([one["per_second"] for one in taken])
    ratio = rate.median / yardstick.median
    derived: dict[str, Spread | float] = {
        "one upload, median ms": spread([one["median_ms"] for one in taken]).median,
        "one upload, p99 ms": spread([one["p99_ms"] for one in taken]).median,
        "the client's own CPU, ms an upload": spread([one["cpu_ms"] for one in taken]).median,
    }
    if running is not None:
        derived["accepted a second with the dispatcher running"] = running["per_second"]
    return Figure(
        name=name,
        what=f"UploadTask accepted a second, durable: {what}, {IN_FLIGHT} in flight, dispatcher halted",
        unit="1/s",
        n=count * len(taken),
        value=ratio,
        aim="ratio of at least 1/3",
        met=ratio >= AIM,
        pool=rate.median,
        yardsticks={"bare Celery send_task, same Valkey and settings": yardstick.median},
        derived=derived,
    )


def celery_per_second(pool: Pool, count: int) -> float:
    """Messages that bare Celery sends in a second."""
    return _send(pool, count)["per_second"]


def _send(pool: Pool, count: int) -> dict[str, float]:
    return _child("benchmarks.celery_sender", {"broker_url": pool.broker_url, "count": count})


def _upload(pool: Pool, count: int, *, distinct: bool) -> dict[str, float]:
    order = {
        "address": pool.address,
        "token": pool.token,
        "count": count,
        "in_flight": IN_FLIGHT,
        "distinct": distinct,
    }
    return _child("benchmarks.uploader", order)


def _child(module: str, order: Mapping[str, object]) -> dict[str, float]:
    """The order goes in on standard input: it holds secrets."""
    child = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = child.communicate(json.dumps(order), CHILD_SECONDS)
    except BaseException:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=5)
        raise
    if child.returncode:
        raise BenchmarkError(f"{module} failed: {errors[-600:]}")
    answer: dict[str, float] = json.loads(output)
    return answer
