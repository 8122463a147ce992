"""The yardsticks: the same script started without a pool, by nothing at all or by the runner alone."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException

from benchmarks.pool import BenchmarkError
from nodepool.settings import Settings
from worker_agent.execution import DEFAULT_MEMORY_BYTES
from worker_agent.runners.base import Runner, RunRefusedError, RunSpec, StartedRun
from worker_agent.runners.docker import DockerRunner
from worker_agent.runners.process import ProcessRunner

SCRIPT = 'print("first line")\n'
NODE_ID = "bench/bare"
RUN_SECONDS = 60.0
# What a pool without settings of its own allows a task.
DEFAULTS = Settings.model_construct()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerKind:
    """What tasks run in: a runner, and the command that starts the same script without it."""

    name: str
    image: str
    runner: Runner
    folder: Path
    bare_name: str
    bare_command: Callable[[Path], list[str]] | None


def process_kind(folder: Path) -> RunnerKind:
    """Raises RunRefusedError where the process runner cannot work."""
    runner = ProcessRunner(folder / "state")
    python = runner.tools.python
    return RunnerKind(
        name="process",
        image="",
        runner=runner,
        folder=_workshop(folder),
        bare_name=f"bare subprocess ({python})",
        bare_command=lambda work_dir: [python, str(work_dir / "main.py")],
    )


def docker_kind(folder: Path) -> RunnerKind:
    """Raises RunRefusedError where no engine answers or the image is not there."""
    image = os.environ.get("HIVEMIND_TEST_IMAGE") or os.environ.get("DEFAULT_IMAGE") or DEFAULTS.default_image
    _check_image(image)

    def command(work_dir: Path) -> list[str]:
        mount = f"{work_dir}:/work"
        begin = ["docker", "run", "--rm", "--network", "none", "--env", "PYTHONUNBUFFERED=1"]
        return [*begin, "--volume", mount, "--workdir", "/work", image, "python3", "main.py"]

    return RunnerKind(
        name="docker",
        image=image,
        runner=DockerRunner(NODE_ID),
        folder=_workshop(folder),
        bare_name="bare docker run",
        bare_command=command if shutil.which("docker") else None,
    )


def close(kind: RunnerKind) -> None:
    kind.runner.reap(())
    kind.runner.close()
    shutil.rmtree(kind.folder, ignore_errors=True)


class Work:
    """Working directories with the script in them, made before and removed after what is measured."""

    def __init__(self, kind: RunnerKind) -> None:
        self._kind = kind
        self._numbers = itertools.count(1)

    def spec(self) -> RunSpec:
        number = next(self._numbers)
        work_dir = self._kind.folder / f"{number}-{time.monotonic_ns()}"
        work_dir.mkdir()
        (work_dir / "main.py").write_text(SCRIPT)
        return RunSpec(
            attempt_id=f"bare-{work_dir.name}:1",
            task_id=f"bare-{work_dir.name}",
            node_id=NODE_ID,
            work_dir=work_dir,
            entry="main.py",
            memory_bytes=DEFAULT_MEMORY_BYTES,
            cpus=1.0,
            gpu=False,
            image=self._kind.image,
            network=False,
            max_run_seconds=int(RUN_SECONDS),
            max_workdir_bytes=DEFAULTS.max_workdir_bytes,
            tmpfs_bytes=DEFAULTS.tmpfs_bytes,
            pids_limit=DEFAULTS.pids_limit,
        )


def bare_first_line_ms(kind: RunnerKind, work: Work) -> float:
    """From the start of the command to its first line."""
    assert kind.bare_command is not None
    spec = work.spec()
    command = kind.bare_command(spec.work_dir)
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seen = time.perf_counter()
        rest = child.stdout.read()
        code = child.wait(RUN_SECONDS)
    shutil.rmtree(spec.work_dir)
    if code or line.decode() != "first line\n":
        raise BenchmarkError(f"{' '.join(command)} ended with {code}: {(line + rest)[-300:].decode()}")
    return (seen - began) * 1e3


def runner_first_line_ms(kind: RunnerKind, work: Work) -> float:
    """From `prepare` to the first output, as the agent's runner does it."""
    spec = work.spec()
    seen: list[float] = []
    first = threading.Event()

    def on_output(_data: bytes) -> None:
        if not seen:
            seen.append(time.perf_counter())
            first.set()

    began = time.perf_counter()
    run = kind.runner.prepare(spec).start(on_output)
    _expect_success(run)
    shutil.rmtree(spec.work_dir)
    if not first.is_set():
        raise BenchmarkError(f"the {kind.name} runner showed no output")
    return (seen[0] - began) * 1e3


def run_many_seconds(kind: RunnerKind, work: Work, count: int, at_once: int) -> float:
    """All of `count` scripts through the runner, `at_once` at a time, with nothing around it."""
    specs = [work.spec() for _ in range(count)]

    def one(spec: RunSpec) -> None:
        _expect_success(kind.runner.prepare(spec).start(lambda _data: None))

    with ThreadPoolExecutor(at_once) as threads:
        began = time.perf_counter()
        list(threads.map(one, specs))
        taken = time.perf_counter() - began
    for spec in specs:
        shutil.rmtree(spec.work_dir)
    return taken


def _expect_success(run: StartedRun) -> None:
    end = run.wait()
    if end.exit_code or end.problem:
        raise BenchmarkError(f"the runner's script ended with {end.exit_code}: {end.problem}")


def _workshop(folder: Path) -> Path:
    work = folder / "work"
    work.mkdir(parents=True, mode=0o711)
    return work


def _check_image(image: str) -> None:
    try:
        client = docker.from_env(timeout=5)
    except DockerException as error:
        raise RunRefusedError("no Docker engine answers here") from error
    try:
        client.images.get(image)
    except DockerException as error:
        raise RunRefusedError(f"the Docker engine here has no image {image}") from error
    finally:
        client.close()
