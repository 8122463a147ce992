"""One running container: its output, its usage, its end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import docker
from docker.errors import DockerException
from requests import RequestException

from nodepool.domain.tasks.reasons import ReasonCode
from worker_agent.runners import proc
from worker_agent.runners.base import (
    STOP_GRACE_SECONDS,
    RunEnd,
    RunRefusedError,
    RunSpec,
    Usage,
    exit_code_of_shell,
)
from worker_agent.runners.disk_room import LOW_DISK
from worker_agent.runners.frames import Demultiplexer
from worker_agent.runners.requirements import install_problem
from worker_agent.runners.sandbox import WORK, Bootstrap, resize_options
from worker_agent.runners.watch import Watcher, WatchLimits

_READ_BYTES = 1 << 16
_TICK_SECONDS = 0.5
_MEASURE_SECONDS = 2.0
_NANOSECONDS = 1e9
ENGINE_ERRORS = (DockerException, RequestException, OSError)


class InContainer(Protocol):
    """A task and the container that it is in."""

    client: docker.APIClient
    container: str
    touched: bool  # it was ended, or its limits were changed

    def outputs(self) -> Iterator[bytes]:
        """Until the task has put out all. OSError: the engine went away, and `exit_code` tells."""
        ...

    def exit_code(self) -> int: ...
    def out_of_memory(self) -> bool: ...
    def send(self, number: signal.Signals) -> None: ...

    def measured(self) -> tuple[float, int]:
        """Seconds of CPU, and bytes of its largest process; 0 where nobody told."""
        ...


@dataclass(slots=True)
class Attached:
    """A started container, and the stream of its output."""

    client: docker.APIClient
    container: str
    stream: Any
    given: bytes = field(default=b"", repr=False)  # what its stdin is given: secrets
    touched: bool = False

    def outputs(self) -> Iterator[bytes]:
        demultiplexer = Demultiplexer()
        try:
            if self.given:
                give(self.stream, self.given)
                self.given = b""
            while data := receive(self.stream):
                yield from demultiplexer.feed(data)
        finally:
            close_stream(self.stream)

    def exit_code(self) -> int:
        return int(self.client.wait(self.container, timeout=None)["StatusCode"])

    def out_of_memory(self) -> bool:
        state = self.client.inspect_container(self.container)["State"]
        return bool(state.get("OOMKilled"))

    def send(self, number: signal.Signals) -> None:
        self.client.kill(self.container, int(number))

    def measured(self) -> tuple[float, int]:
        return 0.0, 0


class ContainerRun:
    def __init__(
        self,
        spec: RunSpec,
        task: InContainer,
        on_output: Callable[[bytes], None],
        watcher: Watcher,
        in_background: Callable[[Callable[[], None]], Future[None]],
        bootstrap: Bootstrap | None,
        clean: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._task = task
        self._client = task.client
        self._container = task.container
        self._on_output: Callable[[bytes], None] | None = on_output
        self._in_background = in_background
        self._bootstrap = bootstrap
        self._clean = clean
        folders = (spec.work_dir, *([bootstrap.host_dir] if bootstrap else []))
        self._limits = WatchLimits(
            folders, spec.max_run_seconds, spec.max_workdir_bytes, processes=self._processes
        )
        self._root_pid: int | None = None  # 0: not on this machine
        self._lock = threading.Lock()
        self._over = False
        self._stopped = False
        self._problem = ""
        self._killer: threading.Timer | None = None
        self._usage = Usage(0.0, 0)
        self._measured: tuple[float, float] | None = None
        self._measuring: Future[None] | None = None
        self._next_measure = time.monotonic() + _TICK_SECONDS
        self._peak_memory_bytes = 0
        self._cpu_seconds = 0.0
        self._reader = threading.Thread(target=self._read, name=f"output-{spec.attempt_id}", daemon=True)
        self._reader.start()
        watcher.add(self._tick, _TICK_SECONDS)

    def wait(self) -> RunEnd:
        try:
            # The engine ends the stream with the container: waiting there costs it nothing.
            self._reader.join()
            code = self._task.exit_code()
            with self._lock:
                self._over = True
                if self._killer is not None:
                    self._killer.cancel()
            out_of_memory = code != 0 and not self._problem and self._task.out_of_memory()
        except ENGINE_ERRORS as error:
            raise RunRefusedError(
                f"the container engine lost the task: {error}", ReasonCode.ENGINE_AWAY
            ) from error
        finally:
            self._over = True
            lacking = self._limits.lacking_disk()
            self._task.touched = self._task.touched or lacking is not None
            installed = install_problem(self._bootstrap, network=self._spec.network, exit_code=1)
            self._clean()
        if lacking is not None and not self._stopped and self._problem in {"", LOW_DISK}:
            raise lacking
        problem = self._problem
        if not problem and not self._stopped and code != 0:
            problem = self._memory_words() if out_of_memory else installed
        cpu_seconds, largest_bytes = self._task.measured()
        return RunEnd(
            exit_code=exit_code_of_shell(code),
            stopped=self._stopped and not self._problem,
            problem=problem,
            cpu_seconds=cpu_seconds or self._cpu_seconds,
            peak_memory_bytes=max(self._peak_memory_bytes, largest_bytes),
        )

    def stop(self) -> None:
        with self._lock:
            if self._over:
                return
            self._stopped = self._stopped or not self._problem
        self._begin_end()

    def usage(self) -> Usage:
        return self._usage

    def resize(self, *, memory_bytes: int, cpus: float) -> None:
        options = resize_options(self._spec, memory_bytes=memory_bytes, cpus=cpus)
        with self._lock:
            if self._over:
                return
            self._task.touched = True
        with contextlib.suppress(RuntimeError):  # the runner is being closed
            self._in_background(lambda: self._update(options))

    def _update(self, options: dict[str, Any]) -> None:
        # A run that has ended is no error here; for the others the limits hold as they were.
        with contextlib.suppress(*ENGINE_ERRORS):
            self._client.update_container(self._container, **options)

    def _read(self) -> None:
        try:
            for part in self._task.outputs():
                if self._on_output is not None:
                    self._on_output(part)
        except OSError:
            pass  # the engine went away: wait() tells

    def _tick(self) -> float | None:
        if self._over:
            return None
        now = time.monotonic()
        if now >= self._next_measure and (self._measuring is None or self._measuring.done()):
            self._next_measure = now + _MEASURE_SECONDS
            with contextlib.suppress(RuntimeError):  # the runner is being closed
                self._measuring = self._in_background(self._measure)
        problem = self._limits.check()
        if problem:
            with self._lock:
                if self._over or self._stopped or self._problem:
                    return None
                self._problem = problem
            with contextlib.suppress(RuntimeError):
                # One that takes more than it may has no grace: it would go on taking.
                grace_seconds = 0.0 if self._limits.at_once else STOP_GRACE_SECONDS
                self._in_background(lambda: self._begin_end(grace_seconds))
            return None
        return max(0.01, min(_TICK_SECONDS, self._limits.seconds_left() + 0.005))

    def _processes(self) -> list[int] | None:
        """Those of the container, when its engine is on this machine and they can be seen."""
        return [self._root_pid, *proc.descendants(self._root_pid)] if self._root_pid else None

    def _find_root(self) -> int:
        """The engine may be another machine's, where the same number is another process."""
        pid = int(self._client.inspect_container(self._container)["State"].get("Pid", 0))
        with contextlib.suppress(OSError):
            if pid and (Path("/proc") / str(pid) / "root" / WORK.lstrip("/")).samefile(self._spec.work_dir):
                return pid
        return 0

    def _measure(self) -> None:
        try:
            if self._root_pid is None:
                self._root_pid = self._find_root()
            stats = self._client.stats(self._container, stream=False, one_shot=True)
        except ENGINE_ERRORS:
            return
        cpu_seconds = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / _NANOSECONDS
        memory = memory_bytes(stats.get("memory_stats", {}))
        now = time.monotonic()
        percent = 0.0
        if self._measured is not None and now > self._measured[0]:
            percent = 100.0 * max(0.0, cpu_seconds - self._measured[1]) / (now - self._measured[0])
        self._usage = Usage(percent, memory)
        self._measured = (now, cpu_seconds)
        self._cpu_seconds = max(self._cpu_seconds, cpu_seconds)
        self._peak_memory_bytes = max(self._peak_memory_bytes, memory)

    def _begin_end(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        with self._lock:
            if self._over or self._killer is not None:
                return
            self._task.touched = True
            self._killer = threading.Timer(grace_seconds, self._send, [signal.SIGKILL])
            self._killer.daemon = True
            self._killer.start()
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        # One that has ended already is no error here, and a lost engine shows in wait().
        with contextlib.suppress(*ENGINE_ERRORS):
            self._task.send(number)

    def _memory_words(self) -> str:
        return f"the task used more memory than its {self._spec.memory_bytes >> 20} MiB"


def memory_bytes(stats: dict[str, Any]) -> int:
    """Memory that is not cache the kernel would drop, as the docker command counts it."""
    details = stats.get("stats", {})
    # cgroup v1, then v2
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, int(stats.get("usage", 0)) - int(cache))


def close_stream(stream: Any) -> None:
    # The client keeps the answer on the stream, and below it the connection, which nobody else closes.
    response = getattr(stream, "_response", None)
    connection = getattr(getattr(response, "raw", None), "_connection", None)
    for part in (response, stream, connection):
        if part is not None:
            with contextlib.suppress(*ENGINE_ERRORS, ValueError):
                part.close()


def unlimited(stream: Any) -> Any:
    """The client's timeout is for calls; a task may be silent for as long as it likes."""
    for candidate in (stream, getattr(stream, "_sock", None)):
        if candidate is not None and hasattr(candidate, "settimeout"):
            candidate.settimeout(None)
    return stream


def give(stream: Any, data: bytes) -> None:
    """A container that has ended takes nothing more: its exit code says why."""
    # What is made for reading has the socket below it.
    with contextlib.suppress(OSError):
        getattr(stream, "_sock", stream).sendall(data)


def receive(stream: Any) -> bytes:
    # A TLS socket, or a file over a socket.
    return bytes((stream.recv if hasattr(stream, "recv") else stream.read)(_READ_BYTES) or b"")
