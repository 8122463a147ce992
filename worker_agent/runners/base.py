"""What the agent asks of a runner: prepare an attempt, start it, watch it, end it.

`prepare` and `start` are apart so that what takes long can be done ahead of the moment at which
the task begins. This file knows neither containers nor processes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nodepool.domain.errors import NodePoolError
from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.tasks.reasons import ReasonCode

STOP_GRACE_SECONDS = 1.0
# Shells, container engines and bubblewrap tell "ended by signal S" as exit code 128 + S.
_SIGNAL_BASE = 128
_LAST_SIGNAL = 64


class RunRefusedError(NodePoolError):
    """This node cannot run the attempt; another one may. `code`: what it is, for the pool's rules."""

    def __init__(self, words: str, code: ReasonCode = ReasonCode.NODE_FAILED) -> None:
        super().__init__(words)
        self.code = code


_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def code_of_os_error(error: OSError) -> ReasonCode:
    return ReasonCode.DISK_FULL if error.errno in _NO_SPACE else ReasonCode.NODE_FAILED


@dataclass(frozen=True, slots=True)
class SandboxReuse:
    """When a sandbox that has run a task may run its owner's next one."""

    owner: str = field(repr=False)  # whose task it is; says nothing but that
    most_tasks: int  # that one sandbox runs
    idle_seconds: float  # that it waits for the next one


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """One attempt, ready to run. `entry` is run.sh or a *.py at the root of `work_dir`."""

    attempt_id: str
    task_id: str
    node_id: str
    work_dir: Path
    inputs_dir: Path | None = None  # seen read-only in the working directory; what other steps made
    entry: str
    arguments: tuple[str, ...] = field(default=(), repr=False)  # for the entry, as they are
    # Of its owner's and the pool's. What the run itself needs wins over them.
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Variables, too, that only the run may show: not the engine, and no list of processes.
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    memory_bytes: int
    cpus: float
    gpu: bool
    image: str
    network: bool
    max_run_seconds: int
    max_workdir_bytes: int
    tmpfs_bytes: int
    pids_limit: int
    again: SandboxReuse | None = None  # None: its sandbox has run nothing before, and runs nothing after it


@dataclass(frozen=True, slots=True)
class Usage:
    """Measured now. `cpu_percent`: 100 is one core."""

    cpu_percent: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended. CPU and memory are what was measured; a short run may have measured nothing."""

    exit_code: int  # negative: ended by that signal
    stopped: bool  # stop() ended it
    problem: str  # empty, or one sentence for the task's owner: the run has failed whatever its exit code
    cpu_seconds: float
    peak_memory_bytes: int


class StartedRun(Protocol):
    """A started attempt."""

    def wait(self) -> RunEnd:
        """Block until the run, with everything it started, is over and cleaned up. Called once.

        Raises RunRefusedError when it turns out that the sandbox or the engine could not begin the task, or
        that the node's disk was full while it ran: its files may be cut, whatever its exit code says.
        """
        ...

    def stop(self) -> None:
        """Begin to end the run: SIGTERM now, SIGKILL a second later. Returns at once; any thread, any times.

        Within 1.5 s `wait` returns.
        """
        ...

    def usage(self) -> Usage: ...

    def resize(self, *, memory_bytes: int, cpus: float) -> None:
        """The pool keeps this much for the run now, which is never more than the limits in its RunSpec.

        Those stay: a run is never ended for growing into what its task asked for. This is for who comes
        first when the node is short. Returns at once; any thread, any times.
        """
        ...


class Prepared(Protocol):
    """An attempt that needs nothing more than to be started. Either `start` or `discard` is called, once."""

    def start(self, on_output: Callable[[bytes], None]) -> StartedRun:
        """`on_output` gets standard output and error, merged, on another thread, never after `wait` returned.

        Raises RunRefusedError when the node turns out not to be able to run it.
        """
        ...

    def discard(self) -> None: ...


class Runner(Protocol):
    @property
    def name(self) -> str:
        """`docker` or `process`."""
        ...

    @property
    def isolation(self) -> Isolation:
        """How far its runs are kept from the agent and from each other on this machine, found by trying."""
        ...

    def prepare(self, spec: RunSpec) -> Prepared:
        """Raises RunRefusedError with one sentence when this node cannot run the attempt."""
        ...

    def reap(self, keep: Collection[str]) -> int:
        """End what earlier lives of this node left behind, but for these attempt ids. Returns how many."""
        ...

    @property
    def disks(self) -> tuple[Path, ...]:
        """Folders on this machine, beside the agent's own, without room in which no run can begin."""
        ...

    def has_more_images(self) -> bool:
        """Whether an image has come for whose absence a task was refused; told once."""
        ...

    def problem(self) -> str:
        """Why it can run nothing now, in a few words, or nothing. Within a few seconds."""
        ...

    def close(self) -> None: ...


def exit_code_of_shell(code: int) -> int:
    """Turns 128 + S, the way a wrapper tells that signal S ended the task, into -S."""
    if _SIGNAL_BASE < code <= _SIGNAL_BASE + _LAST_SIGNAL:
        return _SIGNAL_BASE - code
    return code
