"""A whole pool on this machine, three real programs through it, their results in ./demo-results. `make demo`.

Goes the way of any user: `hivemind up` in one process, the client's SDK in this one. Leaves nothing
behind but the results.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hivemind import NodePoolClient
from hivemind.models import OutputEvent, StateEvent, TaskInfo
from hivemind.needs import TaskNeeds
from local_pool.agent_account import NAME as LOCAL
from nodepool.domain.tasks.states import TaskState
from nodepool.settings import Settings
from scripts.demo_checks import EXAMPLES, DemoError, check_counts, check_pi, check_picture

RESULTS = Path("demo-results")
PI_TASKS = 3
READY_SECONDS = 120.0
TASK_SECONDS = 150.0
STOP_SECONDS = 90.0
SHOWN_LOG_LINES = 15

_printing = threading.Lock()


@dataclass(frozen=True)
class DemoJob:
    """One task of the demo. `check` looks at its unpacked result and says what it found."""

    name: str
    example: str
    check: Callable[[Path], str]


def say(who: str, line: str) -> None:
    with _printing:
        print(f"{who:>11} | {line}", flush=True)


# -- the pool ----------------------------------------------------------------------------------------


class DemoPool:
    """`hivemind up` on a data directory of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.address = f"127.0.0.1:{_free_port()}"
        # The demo is about this pool: settings of another one stay out of it.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name == "DEFAULT_IMAGE"
            or not (
                name.lower() in Settings.model_fields or name.startswith(("HIVEMIND_", "FLOWER_", "CELERY_"))
            )
        }
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "hivemind", "up", "--data-dir", str(data_dir),
                "--grpc-port", self.address.rpartition(":")[2], "--flower-port", str(_free_port()),
                "--agents", "2", "--runner", "auto",
            ],
            cwd=data_dir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the demo, which then stops the pool.
            start_new_session=True,
            text=True,
            errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._ready.wait(0.1):
            if self._process.poll() is not None:
                raise DemoError(f"`hivemind up` ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise DemoError(f"the pool was not ready within {READY_SECONDS:g} s")

    def stop(self) -> bool:
        """Whether it stopped cleanly."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(5)
        return code == 0

    def show_logs(self) -> None:
        for log in sorted((self.data_dir / "logs").glob("*.log")):
            for line in log.read_text(errors="replace").splitlines()[-SHOWN_LOG_LINES:]:
                say(log.stem, line)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            say("pool", line.rstrip())
            if line.strip() == "ready":
                self._ready.set()


# -- the tasks ---------------------------------------------------------------------------------------


def run_job(pool: NodePoolClient, job: DemoJob) -> Path:
    """Submits it, shows its output as it comes, unpacks its result and checks that."""
    submission = pool.submit(EXAMPLES / job.example, TaskNeeds(memory_gb=1))
    say(job.name, f"submitted as {submission.task_id}, {submission.package_bytes:,} bytes")
    task = _follow(pool, job, submission.task_id)
    if task.state is not TaskState.SUCCEEDED:
        raise DemoError(f"{job.name} ended {task.status}: {task.reason}")
    folder = RESULTS / job.name
    result = pool.result(submission.task_id, folder, unpack=True)
    if not {"execution_log.txt", "task_logs.txt"} <= set(result.files):
        raise DemoError(f"{job.name}: the result lacks its logs, it has {', '.join(result.files)}")
    say(job.name, f"right: {job.check(folder)}")
    return folder


def _follow(pool: NodePoolClient, job: DemoJob, task_id: str) -> TaskInfo:
    rest = b""
    last: TaskInfo | None = None
    for event in pool.watch(task_id, timeout_seconds=TASK_SECONDS):
        if isinstance(event, OutputEvent):
            *lines, rest = (rest + event.data).split(b"\n")
            for line in lines:
                say(job.name, line.decode(errors="replace"))
        elif isinstance(event, StateEvent):
            if last is None or event.task.state is not last.state:
                where = f" on {event.task.node}" if event.task.node else ""
                say(job.name, f"-- {event.task.state.value.lower()}{where}")
            last = event.task
    if rest:
        say(job.name, rest.decode(errors="replace"))
    if last is None:
        raise DemoError(f"{job.name}: the pool told no state of {task_id}")
    return last


JOBS = (
    *(DemoJob(f"pi-{number}", "pi", check_pi) for number in range(1, PI_TASKS + 1)),
    DemoJob("wordcount", "wordcount", check_counts),
    DemoJob("mandelbrot", "mandelbrot", check_picture),
)


def run_jobs(pool_data: Path, address: str) -> dict[str, Path]:
    """All jobs at once. Raises DemoError when one is not right, after all have ended."""
    for job in JOBS:
        shutil.rmtree(RESULTS / job.name, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    with NodePoolClient(address) as pool:
        # Whose tasks run here whatever isolation this machine has.
        pool.login(LOCAL, (pool_data / "secrets" / LOCAL).read_text().strip())
        say("demo", f"logged in as {LOCAL}, the account that the pool made for who sits here")
        with ThreadPoolExecutor(len(JOBS)) as threads:
            running = {job.name: threads.submit(run_job, pool, job) for job in JOBS}
    problems = [f"{name}: {error}" for name, future in running.items() if (error := future.exception())]
    if problems:
        raise DemoError("; ".join(problems))
    return {name: future.result() for name, future in running.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    data_dir = Path(tempfile.mkdtemp(prefix="hivemind-demo-"))
    pool: DemoPool | None = None
    done: dict[str, Path] = {}
    problem = ""
    try:
        pool = DemoPool(data_dir)
        pool.wait_ready()
        done = run_jobs(pool.data_dir, pool.address)
    except KeyboardInterrupt:
        problem = "interrupted"
    except Exception as error:  # noqa: BLE001 - whatever it is, the pool is stopped and the reason told
        problem = str(error) or type(error).__name__
    finally:
        if pool is not None and not pool.stop():
            problem = problem or "the pool did not stop cleanly"
        if pool is not None and problem and problem != "interrupted":
            pool.show_logs()
        shutil.rmtree(data_dir, ignore_errors=True)
    for name, folder in done.items():
        say(name, f"result in {folder.resolve()}")
    say("demo", f"failed: {problem}" if problem else f"all right, in {time.monotonic() - started:.0f} s")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
