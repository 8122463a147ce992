"""Runs packages straight through a runner: what the runners' tests have in common."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from tests.support.waiting import wait_until
from worker_agent.runners.base import RunEnd, Runner, RunSpec, StartedRun
from worker_agent.runners.sandbox import ATTEMPT_VARIABLE, attempt_slug

MIB = 1 << 20


def run_spec(work_dir: Path, attempt_id: str = "task:1", **changes: object) -> RunSpec:
    spec = RunSpec(
        attempt_id=attempt_id,
        task_id=attempt_id.rpartition(":")[0],
        node_id="tester/node",
        work_dir=work_dir,
        entry="main.py",
        memory_bytes=512 * MIB,
        cpus=1.0,
        gpu=False,
        image="",
        network=False,
        max_run_seconds=60,
        max_workdir_bytes=256 * MIB,
        tmpfs_bytes=16 * MIB,
        pids_limit=64,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


class LiveRun:
    """A started run, with what it has put out so far."""

    def __init__(self, runner: Runner, spec: RunSpec) -> None:
        self.spec = spec
        self._output = bytearray()
        self._lock = threading.Lock()
        self.output_bytes = 0
        self.waited = False
        self.run: StartedRun = runner.prepare(spec).start(self._take)

    def _take(self, data: bytes) -> None:
        with self._lock:
            self.output_bytes += len(data)
            self._output += data[: 10 * MIB - len(self._output)]

    @property
    def output(self) -> str:
        with self._lock:
            return self._output.decode(errors="replace")

    def await_output(self, text: str) -> str:
        """The output, as soon as it holds `text`; a failure shows what there was instead."""
        with contextlib.suppress(AssertionError):
            return wait_until(lambda: text in self.output and self.output, f"the output has {text!r}")
        raise AssertionError(f"{text!r} never came; the output is {self.output[-2000:]!r}, {self._state()}")

    def wait(self) -> RunEnd:
        self.waited = True
        return self.run.wait()

    def _state(self) -> str:
        """How the run is, for a failure's message; ends it."""
        usage = self.run.usage()
        self.run.stop()
        return f"usage was {usage}, and stopped it gives {self.wait()}"


class RunFactory:
    """Makes runs of files in their own working directories under one folder."""

    def __init__(self, runner: Runner, folder: Path, **defaults: object) -> None:
        self.runner = runner
        self._folder = folder
        self._defaults = defaults
        self._count = 0
        self._started: list[LiveRun] = []

    def spec(self, files: Mapping[str, str | bytes], **changes: object) -> RunSpec:
        self._count += 1
        attempt_id = str(changes.pop("attempt_id", f"{self._folder.name}-{self._count}:1"))
        work_dir = self._folder / f"work-{self._count}-{attempt_slug(attempt_id)}"
        work_dir.mkdir()
        for name, content in files.items():
            path = work_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        entry = next(iter(files), "main.py")
        return run_spec(work_dir, attempt_id, **{"entry": entry, **self._defaults, **changes})

    def start(self, files: Mapping[str, str | bytes], **changes: object) -> LiveRun:
        live = LiveRun(self.runner, self.spec(files, **changes))
        self._started.append(live)
        return live

    def end_all(self) -> None:
        """Whatever a failed test left running, so that it fails alone."""
        for live in self._started:
            if not live.waited:
                live.run.stop()
                live.wait()

    def run(self, files: Mapping[str, str | bytes], **changes: object) -> tuple[RunEnd, LiveRun]:
        live = self.start(files, **changes)
        return live.wait(), live

    def script(self, code: str, **changes: object) -> tuple[RunEnd, LiveRun]:
        return self.run({"main.py": code}, **changes)


MakeRuns = Callable[..., RunFactory]


def task_processes(attempts_begin_with: str) -> set[int]:
    """Living processes of the process runner's tasks, by the ids of their attempts."""
    mark = f"\0{ATTEMPT_VARIABLE}={attempts_begin_with}".encode()
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        # One that has ended has none.
        with contextlib.suppress(OSError):
            if mark in b"\0" + environment.read_bytes():
                found.add(int(environment.parent.name))
    return found
