"""Arrays beside bare Celery, and what another user notices: `python -m benchmarks.arrays`.

How many tasks of one array are accepted a second, durable, against `send_task` of as many in the same run;
how long the largest array takes, and with how much memory of the gateway; and how long `UploadTask` and
`GetAllTasks` of another user take meanwhile, and while the array waits, against an idle pool.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
from rich.console import Console

from benchmarks.figures import Figure, FigureReport, Spread, show, spread
from benchmarks.pool import BenchmarkError, Pool, stop_on_signals
from benchmarks.submit import celery_per_second
from benchmarks.tasks import package
from hivemind import NodePoolClient
from nodepool.domain.tasks.arrays import MAX_TASKS, item_line
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.protocol.nodepool_pb2_grpc import MasterNodeServiceStub

RATIO_AIM, LARGE_SECONDS_AIM, MEMORY_AIM_BYTES, LATENCY_AIM = 2.0, 30.0, 500e6, 2.0
ROUNDS = 3
IDLE_CALLS = 150
LISTED_TASKS, AT_ONCE = 1000, 8
CALL_SECONDS = 300.0
PIECE_BYTES = 256 << 10
PAUSE_SECONDS = 0.005
# Nobody can run these: what is measured is how they are accepted and wait.
HUGE_CPU_SCORE = 10**6
SCRIPT = package("print('hello')")


class ArrayUser:
    """Somebody with a connection of their own."""

    def __init__(self, pool: Pool, name: str) -> None:
        with NodePoolClient(pool.address) as client:
            password = secrets.token_urlsafe(16)
            client.register(name, password)
            client.login(name, password)
            self._metadata = (("authorization", f"Bearer {client.token}"),)
            self._token = client.token
        self._channel = grpc.insecure_channel(pool.address, options=[("grpc.enable_http_proxy", 0)])
        self._stub = MasterNodeServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def submit(self) -> None:
        request = pb.UploadTaskRequest(
            task_id=f"t{secrets.token_hex(8)}", task_zip=SCRIPT, max_minutes=1, cpu_score=HUGE_CPU_SCORE
        )
        self._stub.UploadTask(request, metadata=self._metadata, timeout=CALL_SECONDS)

    def list_tasks(self) -> None:
        request = pb.GetAllTasksRequest(token=self._token)
        self._stub.GetAllTasks(request, metadata=self._metadata, timeout=CALL_SECONDS)

    def array(self, tasks: int) -> tuple[str, float]:
        """Its id, and the seconds until it was accepted."""
        job_id = f"job-{secrets.token_hex(6)}"
        messages = list(_messages(job_id, tasks))
        began = time.perf_counter()
        answer = self._stub.SubmitArray(iter(messages), metadata=self._metadata, timeout=CALL_SECONDS)
        if answer.tasks != tasks:
            raise BenchmarkError(f"the array was not accepted: {answer.message}")
        return job_id, time.perf_counter() - began

    def stop(self, job_id: str) -> None:
        request = pb.StopJobRequest(job_id=job_id)
        self._stub.StopJob(request, metadata=self._metadata, timeout=CALL_SECONDS)


def _messages(job_id: str, tasks: int) -> Iterator[pb.SubmitArrayRequest]:
    common = pb.UploadTaskRequest(
        package_bytes=len(SCRIPT),
        package_sha256=hashlib.sha256(SCRIPT).hexdigest(),
        max_minutes=1,
        cpu_score=HUGE_CPU_SCORE,
        arguments=["--lr", "{lr}", "--seed={seed}"],
    )
    spec = pb.ArraySpec(job_id=job_id, task=common, names=["lr", "seed"], tasks=tasks)
    yield pb.SubmitArrayRequest(array=spec)
    items = "".join(item_line(at, [str(at / 1000), str(at)]) for at in range(tasks)).encode()
    for start in range(0, len(items), PIECE_BYTES):
        yield pb.SubmitArrayRequest(items=items[start : start + PIECE_BYTES])
    yield pb.SubmitArrayRequest(zip_chunk=SCRIPT)


class Latencies:
    """Of another user's calls, one after another, in milliseconds."""

    def __init__(self, user: ArrayUser) -> None:
        self._calls: dict[str, Callable[[], None]] = {"submit": user.submit, "ls": user.list_tasks}
        self.found: dict[str, list[float]] = {name: [] for name in self._calls}

    def once(self) -> None:
        for name, call in self._calls.items():
            began = time.perf_counter()
            call()
            self.found[name].append((time.perf_counter() - began) * 1000)
        time.sleep(PAUSE_SECONDS)

    def p95(self, name: str) -> float:
        values = sorted(self.found[name])
        return values[min(len(values) - 1, int(0.95 * len(values)))]

    @contextmanager
    def meanwhile(self) -> Iterator[None]:
        with _beside(self._until):
            yield

    def _until(self, over: threading.Event) -> None:
        while not over.is_set():
            self.once()


@contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """`work` goes on in a thread until the event that it is given is set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class PeakMemory:
    """The most that the gateway had while it was watched."""

    def __init__(self, pool: Pool) -> None:
        self._gateway = _gateway_of(pool)
        self.bytes = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        with _beside(self._watch):
            yield

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.05):
            try:
                self.bytes = max(self.bytes, self._gateway.memory_info().rss)
            except psutil.NoSuchProcess:
                return


def _gateway_of(pool: Pool) -> psutil.Process:
    for part in pool.processes():
        with suppress(psutil.Error):
            if "gateway" in part.cmdline():
                return part
    raise BenchmarkError("the pool has no gateway")


def measure(pool: Pool, tasks: int, large: int) -> list[Figure]:
    owner, other = ArrayUser(pool, "owner"), ArrayUser(pool, "other")
    try:
        return [_rate(pool, owner, tasks), *_large(pool, owner, other, large)]
    finally:
        owner.close()
        other.close()


def _rate(pool: Pool, owner: ArrayUser, tasks: int) -> Figure:
    sent, accepted = [], []
    for _ in range(ROUNDS):
        sent.append(celery_per_second(pool, tasks))
        job_id, seconds = owner.array(tasks)
        accepted.append(tasks / seconds)
        owner.stop(job_id)
    rate, yardstick = spread(accepted), spread(sent)
    ratio = rate.median / yardstick.median
    return Figure(
        name="arrays.accepted",
        what=f"tasks of one array of {tasks} accepted a second, durable",
        unit="1/s",
        n=ROUNDS * tasks,
        value=ratio,
        aim=f"ratio of at least {RATIO_AIM:g}",
        met=ratio >= RATIO_AIM,
        pool=rate.median,
        yardsticks={"bare Celery send_task, same Valkey and settings": yardstick.median},
    )


def _large(pool: Pool, owner: ArrayUser, other: ArrayUser, tasks: int) -> list[Figure]:
    idle, busy, waits = Latencies(other), Latencies(other), Latencies(other)
    # A list shows so many at the most: later calls list no more than those of the idle pool.
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for done in [threads.submit(other.submit) for _ in range(LISTED_TASKS)]:
            done.result()
    for _ in range(IDLE_CALLS):
        idle.once()
    memory = PeakMemory(pool)
    with memory.watched(), busy.meanwhile():
        job_id, seconds = owner.array(tasks)
    with waits.meanwhile():
        time.sleep(max(2.0, seconds / 2))
    owner.stop(job_id)
    figures = [
        _single("arrays.large", f"one array of {tasks} accepted", "s", seconds, LARGE_SECONDS_AIM),
        _single("arrays.memory", "the gateway's memory meanwhile, peak", "B", memory.bytes, MEMORY_AIM_BYTES),
    ]
    for name in ("submit", "ls"):
        ratio = max(busy.p95(name), waits.p95(name)) / idle.p95(name)
        figures.append(
            Figure(
                name=f"arrays.others_{name}",
                what=f"p95 of another user's {name} while it is accepted, and while it waits",
                unit="ms",
                n=len(busy.found[name]) + len(waits.found[name]),
                value=ratio,
                aim=f"ratio of at most {LATENCY_AIM:g}",
                met=ratio <= LATENCY_AIM,
                pool=busy.p95(name),
                yardsticks={"an idle pool": idle.p95(name)},
                derived={
                    "while it waits": waits.p95(name),
                    "while it is accepted, median": spread(busy.found[name]).median,
                },
            )
        )
    return figures


def _single(name: str, what: str, unit: str, value: float, aim: float) -> Figure:
    return Figure(
        name=name,
        what=what,
        unit=unit,
        n=1,
        value=value,
        aim=f"at most {aim:g} {unit}",
        met=value <= aim,
        pool=Spread(1, value, value),
        yardsticks={},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrays", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="of the array that is compared with Celery")
    parser.add_argument("--large", type=int, default=MAX_TASKS, help="of the largest")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    stop_on_signals()
    report = FigureReport()
    limits = {"NEWCOMER_CREDIT_SCORE": "100", "MAX_WAITING_TASKS_PER_USER": "1000000"}
    with tempfile.TemporaryDirectory(prefix="hivemind-bench-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        with Pool(path / "pool", agents=1, runner="process", flower=False, settings=limits) as pool:
            report.figures += measure(pool, options.tasks, options.large)
    show(report, Console())
    if options.json:
        options.json.write_text(report.as_json(), encoding="utf-8")
    sys.exit(0 if all(figure.met for figure in report.figures) else 1)


if __name__ == "__main__":
    main()
