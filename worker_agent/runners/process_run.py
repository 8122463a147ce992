"""One running sandboxed process tree: its output, its end, its cleaning up."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from worker_agent.runners import orphans, proc
from worker_agent.runners.base import (
    STOP_GRACE_SECONDS,
    RunEnd,
    RunRefusedError,
    RunSpec,
    Usage,
    exit_code_of_shell,
)
from worker_agent.runners.cgroups import RunGroup
from worker_agent.runners.disk_room import LOW_DISK
from worker_agent.runners.requirements import install_problem
from worker_agent.runners.sandbox import Bootstrap
from worker_agent.runners.spawner import Launched
from worker_agent.runners.watch import CountedMemory, Watcher, WatchLimits

log = structlog.get_logger(__name__)

_READ_BYTES = 1 << 16
_TICK_SECONDS = 0.25
_READER_SECONDS = 2.0
_STATUS_BYTES = 4096
_LAST_OUTPUT_BYTES = 500


@dataclass(frozen=True, slots=True)
class StartedProcess:
    launched: Launched
    uid: int | None
    separate: bool  # in a PID namespace of its own
    group: RunGroup | None


class ProcessRun:
    def __init__(
        self,
        spec: RunSpec,
        started: StartedProcess,
        on_output: Callable[[bytes], None],
        watcher: Watcher,
        folders: tuple[Path, ...],
        bootstrap: Bootstrap | None,
        clean: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._pid = started.launched.pid
        self._read_from = started.launched.output
        self._status_reader = started.launched.status_reader
        self._uid = started.uid
        self._separate = started.separate
        self._group = started.group
        self._bootstrap = bootstrap
        self._clean = clean
        self._limits = WatchLimits(
            folders, spec.max_run_seconds, spec.max_workdir_bytes, processes=self._processes
        )
        self._memory = None if self._group else CountedMemory(spec.memory_bytes)
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
            code = os.waitstatus_to_exitcode(status)
        sandbox = read_status(self._status_reader)
        cpu_seconds, peak_bytes = _of(rusage)
        cpu_inside, peak_inside = _end_of_sandbox(sandbox.first_pid)
        cpu_seconds, peak_bytes = cpu_seconds + cpu_inside, max(peak_bytes, peak_inside)
        if not self._separate:
            self._end_leftovers()
        self._reader.join(_READER_SECONDS)
        self._on_output = None
        if not self._reader.is_alive():
            self._read_from.close()
        exit_code = exit_code_of_shell(code)
        problem = self._problem or ("" if self._stopped else self._end_of_group(exit_code))
        problem = problem or ("" if self._stopped else self._install_problem(exit_code))
        if self._group is not None and not self._group.end():
            log.warning("a run's control group cannot be removed", action="runner.group_left")
        lacking = self._limits.lacking_disk()
        self._clean()
        if lacking is not None and not self._stopped and self._problem in {"", LOW_DISK}:
            raise lacking
        if not sandbox.began and code > 0 and not self._stopped and not self._problem:
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

    def _end_of_group(self, exit_code: int) -> str:
        if self._group is None or not self._group.ran_out_of_memory():
            return ""
        self._peak_memory_bytes = max(self._peak_memory_bytes, self._spec.memory_bytes)
        return self._memory_words() if exit_code else ""

    def _install_problem(self, exit_code: int) -> str:
        return install_problem(self._bootstrap, network=self._spec.network, exit_code=exit_code)

    def _read(self) -> None:
        while data := self._read_from.read(_READ_BYTES):
            self._last_output = data[-_LAST_OUTPUT_BYTES:]
            if (on_output := self._on_output) is not None:
                on_output(data)

    def _tick(self) -> float | None:
        with self._lock:
            if self._over:
                return None
            self._measure()
        problem = self._limits.check()
        at_once = self._limits.at_once
        if not problem and (problem := self._memory_problem() or self._process_problem()):
            at_once = True
        if problem:
            with self._lock:
                if not self._over and not self._stopped and not self._problem:
                    self._problem = problem
                    self._begin_end(0.0 if at_once else STOP_GRACE_SECONDS)
        return max(0.01, min(_TICK_SECONDS, self._limits.seconds_left() + 0.005))

    def _measure(self) -> None:
        now, used = time.monotonic(), proc.tree_usage(self._pid)
        if self._group is not None:
            used = replace(used, memory_bytes=self._group.memory_bytes())
        if self._measured is not None and now > self._measured[0]:
            percent = 100.0 * max(0.0, used.cpu_seconds - self._measured[1]) / (now - self._measured[0])
            self._usage = Usage(percent, used.memory_bytes)
        else:
            self._usage = Usage(0.0, used.memory_bytes)
        self._measured = (now, used.cpu_seconds)
        self._cpu_seconds = max(self._cpu_seconds, used.cpu_seconds)
        self._peak_memory_bytes = max(self._peak_memory_bytes, used.memory_bytes)

    def _memory_problem(self) -> str:
        if self._group is not None:
            if not self._group.ran_out_of_memory():
                return ""
            self._peak_memory_bytes = max(self._peak_memory_bytes, self._spec.memory_bytes)
            return self._memory_words()
        assert self._memory is not None  # noqa: S101
        return self._memory_words() if self._memory.is_over(self._processes(), self._usage) else ""

    def _process_problem(self) -> str:
        """Where the kernel counts by user the agent's other runs count as well: one is not to starve them."""
        if self._group is not None or self._separate or len(self._processes()) <= self._spec.pids_limit:
            return ""
        return f"the task had more than {self._spec.pids_limit} processes"

    def _memory_words(self) -> str:
        return f"the task used more memory than its {self._spec.memory_bytes >> 20} MiB"

    def _processes(self) -> list[int]:
        """Those that the task's code is in: what waits for it outside of it is the agent's own program."""
        if self._group is not None:
            return [pid for pid in self._group.processes() if pid != self._pid]
        return self._task_processes()

    def _begin_end(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """SIGTERM to the task, SIGKILL to everything later. With the lock held.

        One that takes more than it may has no grace: it would go on taking.
        """
        if self._killer is not None:
            return
        for pid in self._task_processes():
            proc.send(pid, signal.SIGTERM)
        self._killer = threading.Timer(grace_seconds, self._kill)
        self._killer.daemon = True
        self._killer.start()

    def _task_processes(self) -> list[int]:
        members = proc.descendants(self._pid)
        # Not the first of the namespace: with it everything would be gone at once.
        return members[1:] if self._separate else members

    def _kill(self) -> None:
        with self._lock:
            if self._over:
                return
            members = proc.descendants(self._pid)
            if self._separate and members:
                # The first of its namespace: all the others end with it, and who waits for it after them.
                proc.send(members[0], signal.SIGKILL)
                return
            for pid in members:
                proc.send(pid, signal.SIGKILL)
            # The launcher ends what is left, unless the task stopped or killed it.
            proc.send(self._pid, signal.SIGCONT)

    def _end_leftovers(self) -> None:
        """What the task left running."""
        if self._group is not None:
            self._group.end()
        if self._uid is not None:
            orphans.end_user(self._uid)
        else:
            orphans.end_marked(self._spec.attempt_id)


@dataclass(frozen=True, slots=True)
class _Sandbox:
    """What bubblewrap, or the launcher, told of itself."""

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
    began = "exit-code" in told or "began" in told
    return _Sandbox(first_pid if isinstance(first_pid, int) else None, began)


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
