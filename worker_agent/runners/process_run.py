"""One running sandboxed process tree: its output, its end, its cleaning up."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worker_agent.runners import leftovers, proc
from worker_agent.runners.base import (
    STOP_GRACE_SECONDS,
    RunEnd,
    RunRefusedError,
    RunSpec,
    Usage,
    exit_code_of_shell,
)
from worker_agent.runners.requirements import install_problem
from worker_agent.runners.watch import RunLimits, Watcher
from worker_agent.sandbox import Bootstrap

_READ_BYTES = 1 << 16
_TICK_SECONDS = 0.25
_READER_SECONDS = 2.0
_STATUS_BYTES = 4096
_LAST_OUTPUT_BYTES = 500


@dataclass(frozen=True, slots=True)
class Started:
    process: subprocess.Popen[bytes]
    # bubblewrap's account of itself; None without bubblewrap.
    status_reader: int | None
    uid: int | None


class ProcessRun:
    def __init__(
        self,
        spec: RunSpec,
        started: Started,
        on_output: Callable[[bytes], None],
        watcher: Watcher,
        folders: tuple[Path, ...],
        bootstrap: Bootstrap | None,
        clean: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._process = started.process
        self._pid = started.process.pid
        self._status_reader = started.status_reader
        self._uid = started.uid
        self._bootstrap = bootstrap
        self._clean = clean
        self._limits = RunLimits(folders, spec.max_run_seconds, spec.max_workdir_bytes)
        # Guards what follows, and that no signal is sent once the pid may be another's.
        self._lock = threading.Lock()
        self._over = False
        self._stopped = False
        self._problem = ""
        self._killer: threading.Timer | None = None
        self._status = b""
        self._usage = Usage(0.0, 0)
        self._measured: tuple[float, float] | None = None
        self._peak_memory_bytes = 0
        self._cpu_seconds = 0.0
        self._on_output: Callable[[bytes], None] | None = on_output
        self._last_output = b""
        self._reader = threading.Thread(target=self._read, name=f"output-{spec.attempt_id}", daemon=True)
        self._reader.start()
        watcher.add(self._tick, _TICK_SECONDS)

    def wait(self) -> RunEnd:
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._over = True
            if self._killer is not None:
                self._killer.cancel()
            _, status, rusage = os.wait4(self._pid, 0)
            code = self._process.returncode = os.waitstatus_to_exitcode(status)
        sandbox = None if self._status_reader is None else read_status(self._status_reader)
        cpu_seconds, peak_bytes = _of(rusage)
        if sandbox is not None:
            cpu_inside, peak_inside = _end_of_sandbox(sandbox.first_pid)
            cpu_seconds, peak_bytes = cpu_seconds + cpu_inside, max(peak_bytes, peak_inside)
        else:
            self._end_leftovers()
        self._reader.join(_READER_SECONDS)
        self._on_output = None
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()
        exit_code = code if self._status_reader is None else exit_code_of_shell(code)
        problem = self._problem or ("" if self._stopped else self._install_problem(exit_code))
        self._clean()
        if sandbox and not sandbox.began and code > 0 and not self._stopped and not self._problem:
            words = self._last_output.decode(errors="replace").strip()
            raise RunRefusedError(f"the sandbox could not be set up: {words}")
        return RunEnd(
            exit_code=exit_code,
            stopped=self._stopped and not self._problem,
            problem=problem,
            cpu_seconds=max(self._cpu_seconds, cpu_seconds),
            peak_memory_bytes=max(self._peak_memory_bytes, peak_bytes),
        )

    def stop(self) -> None:
        with self._lock:
            if not self._over:
                self._stopped = self._stopped or not self._problem
                self._begin_end()

    def usage(self) -> Usage:
        return self._usage

    def resize(self, *, memory_bytes: int, cpus: float) -> None:
        """Nothing: without control groups a process has no soft limit, and niceness or cores could not be
        given back by an unprivileged agent, or would take from the run what it may still use."""

    def _install_problem(self, exit_code: int) -> str:
        return install_problem(self._bootstrap, network=self._spec.network, exit_code=exit_code)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        descriptor = self._process.stdout.fileno()
        while data := os.read(descriptor, _READ_BYTES):
            self._last_output = data[-_LAST_OUTPUT_BYTES:]
            if (on_output := self._on_output) is not None:
                on_output(data)

    def _tick(self) -> float | None:
        with self._lock:
            if self._over:
                return None
            self._measure()
        problem = self._limits.check() or self._memory_problem()
        if problem:
            with self._lock:
                if not self._over and not self._stopped and not self._problem:
                    self._problem = problem
                    self._begin_end()
        return max(0.01, min(_TICK_SECONDS, self._limits.seconds_left() + 0.005))

    def _measure(self) -> None:
        now, used = time.monotonic(), proc.tree_usage(self._pid)
        if self._measured is not None and now > self._measured[0]:
            percent = 100.0 * max(0.0, used.cpu_seconds - self._measured[1]) / (now - self._measured[0])
            self._usage = Usage(percent, used.memory_bytes)
        else:
            self._usage = Usage(0.0, used.memory_bytes)
        self._measured = (now, used.cpu_seconds)
        self._cpu_seconds = max(self._cpu_seconds, used.cpu_seconds)
        self._peak_memory_bytes = max(self._peak_memory_bytes, used.memory_bytes)

    def _memory_problem(self) -> str:
        limit = self._spec.memory_bytes
        # Shared pages were counted once for each process: look closer before ending a run for it.
        if self._usage.memory_bytes <= limit or proc.proportional_bytes(self._pid) <= limit:
            return ""
        return f"the task used more memory than its {limit >> 20} MiB"

    def _begin_end(self) -> None:
        """SIGTERM to the task, SIGKILL to everything later. With the lock held."""
        if self._killer is not None:
            return
        for pid in self._task_processes():
            proc.send(pid, signal.SIGTERM)
        self._killer = threading.Timer(STOP_GRACE_SECONDS, self._kill)
        self._killer.daemon = True
        self._killer.start()

    def _task_processes(self) -> list[int]:
        members = proc.descendants(self._pid)
        if self._status_reader is None:
            return [self._pid, *members]
        # Not bubblewrap itself: with it everything would be gone at once.
        return members[1:]

    def _kill(self) -> None:
        with self._lock:
            if self._over:
                return
            members = proc.descendants(self._pid)
            if self._status_reader is not None and members:
                # The first of its namespace: all the others end with it, and bubblewrap after them.
                proc.send(members[0], signal.SIGKILL)
                return
            for pid in (self._pid, *members):
                proc.send(pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """What the task left running."""
        if self._uid is not None:
            leftovers.end_user(self._uid)
        else:
            leftovers.end_marked(self._spec.attempt_id)


@dataclass(frozen=True, slots=True)
class _Sandbox:
    """What bubblewrap told of itself."""

    first_pid: int | None
    began: bool


def read_status(descriptor: int) -> _Sandbox:
    """Closes the descriptor. An exit code is told only of a task that did begin."""
    told: dict[str, object] = {}
    try:
        for line in os.read(descriptor, _STATUS_BYTES).decode().splitlines():
            told.update(json.loads(line))
    except (BlockingIOError, ValueError):
        pass  # nothing was told
    finally:
        os.close(descriptor)
    first_pid = told.get("child-pid")
    return _Sandbox(first_pid if isinstance(first_pid, int) else None, "exit-code" in told)


def _end_of_sandbox(first_pid: int | None) -> tuple[float, int]:
    """Wait for the namespace to be gone, which its first process is after all others; what it used.

    bubblewrap ends before it, and leaves it to us.
    """
    try:
        return _of(os.wait4(first_pid, 0)[2]) if first_pid is not None else (0.0, 0)
    except ChildProcessError:
        return 0.0, 0


def _of(used: resource.struct_rusage) -> tuple[float, int]:
    """CPU seconds, and the bytes of the largest process."""
    return used.ru_utime + used.ru_stime, used.ru_maxrss << 10
