"""One run of a package by this node's runner: unpacked, prepared, started, waited for, packed up.

Knows neither the gateway nor the journal, so that the pool's attempts and the owner's own runs on
the node go the same way.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nodepool.domain.tasks.flows import INPUTS
from nodepool.domain.tasks.package_rules import PackageLimits
from nodepool.domain.tasks.pool_result import MAX_RESULT_ENTRIES
from nodepool.domain.tasks.states import Outcome
from worker_agent import inputs, wall_clock
from worker_agent.inputs import RunInput
from worker_agent.output_buffer import OutputBuffer
from worker_agent.output_mask import OutputMask, masked_text
from worker_agent.result_zip import BuiltResult, RunFacts, build_result
from worker_agent.runners.base import RunEnd, Runner, RunSpec, SandboxReuse, StartedRun, Usage
from worker_agent.trash import remove_tree
from worker_agent.unpacking import Unpacker, Unpacking, UnpackLimits

DEFAULT_MEMORY_BYTES = 512 << 20
_GIB = 1 << 30
_MIB = 1 << 20
# The gateway has asked already; here only the absolute bounds count.
_ANY_RATIO = 1 << 40
_WIRE_STATUS = {Outcome.SUCCEEDED: "COMPLETED", Outcome.STOPPED: "STOPPED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """The pool's bounds on every run."""

    max_output_bytes: int
    max_result_bytes: int
    max_workdir_bytes: int
    max_unpacked_bytes: int
    max_package_entries: int
    pids_limit: int
    tmpfs_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    attempt_id: str
    task_id: str
    node_id: str
    memory_bytes: int
    cpus: float
    gpu: bool
    image: str
    network: bool
    max_run_seconds: int
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # values by their variables
    inputs: Sequence[RunInput] = field(default=(), repr=False)  # what other steps made
    again: SandboxReuse | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A run that is over. Times are Unix seconds."""

    end: RunEnd
    started_at: float
    finished_at: float
    run_seconds: float  # of the program alone, by the monotonic clock


class Execution:
    """`stop`, `resize` and `usage` may be called from any thread at any time, `run` once."""

    def __init__(
        self,
        runner: Runner,
        unpacker: Unpacker,
        job: Job,
        limits: RunLimits,
        folder: Path,
        discard: Callable[[Path], None] = remove_tree,
    ) -> None:
        """`discard` takes the folder away when it is not needed any more; it may do so later."""
        self._runner = runner
        self._unpacker = unpacker
        self._discard = discard
        self._job = job
        self._limits = limits
        self._folder = folder
        self._lock = threading.Lock()
        self._run: StartedRun | None = None
        self._unpacking: Unpacking | None = None
        self._stopped = False
        self.work_dir, self._inputs_dir = folder / "work", folder / INPUTS
        self.output = OutputBuffer(limits.max_output_bytes)

    def run(self, package: int, on_started: Callable[[], None]) -> Done:
        """Blocks until the run is over. A run that was stopped before it began has started all the same.

        Raises InvalidPackageError, RunRefusedError, and OSError when the node's disk is full.
        """
        started_at = wall_clock.now()
        try:
            entry = self._unpack(package)
            if self._stopped:
                return Done(_not_begun(), started_at, wall_clock.now(), 0.0)
            prepared = self._runner.prepare(self._spec(entry))
            if self._stopped:
                prepared.discard()
                return Done(_not_begun(), started_at, wall_clock.now(), 0.0)
            on_started()
            began = wall_clock.monotonic()
            mask = OutputMask(self._job.secrets.values(), self.output.append)
            run = prepared.start(mask.feed)
            with self._lock:
                self._run = run
                stopped = self._stopped
            if stopped:
                run.stop()
            try:
                end = run.wait()
            finally:
                mask.close()
            run_seconds = wall_clock.monotonic() - began
        finally:
            with self._lock:
                self._run = None
            self.output.close()
        return Done(end, started_at, wall_clock.now(), run_seconds)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            run, unpacking = self._run, self._unpacking
        if unpacking is not None:
            unpacking.stop()
        if run is not None:
            run.stop()

    def resize(self, *, memory_bytes: int, cpus: float) -> None:
        with self._lock:
            run = self._run
        if run is not None:
            run.resize(memory_bytes=memory_bytes, cpus=cpus)

    def usage(self) -> Usage:
        with self._lock:
            run = self._run
        return Usage(0.0, 0) if run is None else run.usage()

    def pack(self, done: Done, outcome: Outcome, reason: str, destination: Path) -> BuiltResult:
        """The result ZIP. Raises OSError when the node's disk is full."""
        facts = RunFacts(
            task_id=self._job.task_id,
            attempt_id=self._job.attempt_id,
            node_id=self._job.node_id,
            status=_WIRE_STATUS.get(outcome, "FAILED"),
            exit_code=done.end.exit_code,
            reason=reason,
            stopped=outcome is Outcome.STOPPED,
            started_at=done.started_at,
            finished_at=done.finished_at,
            cpu_seconds=done.end.cpu_seconds,
            peak_memory_bytes=done.end.peak_memory_bytes,
            dropped_output_bytes=self.output.dropped_bytes,
        )
        output = self.output.chunk(0, self.output.size_bytes)
        if self._job.inputs:
            inputs.take_away(self.work_dir)
        return build_result(self.work_dir, destination, facts, output, self._limits.max_result_bytes)

    def without_secrets(self, text: str) -> str:
        """A text of this run for others, such as a reason."""
        return masked_text(text, self._job.secrets.values())

    def clean(self) -> None:
        """Raises OSError when something of the run's folder stays."""
        self._discard(self._folder)

    def _unpack(self, package: int) -> str:
        """What is to be run; empty when it was stopped meanwhile."""
        self._discard(self._folder)
        # The run's user goes through the folder, and sees nothing in it.
        self._folder.mkdir(parents=True, mode=0o711)
        self.work_dir.mkdir(mode=0o700)
        limits = UnpackLimits(
            package=PackageLimits(
                self._limits.max_unpacked_bytes, self._limits.max_package_entries, _ANY_RATIO
            ),
            max_workdir_bytes=self._limits.max_workdir_bytes,
            max_seconds=self._job.max_run_seconds,
        )
        entry = self._unpack_into(self.work_dir, package, limits)
        if self._job.inputs and not self._stopped:
            self._lay_out_inputs()
        return entry

    def _unpack_into(self, folder: Path, package: int, limits: UnpackLimits) -> str:
        unpacking = self._unpacker.unpacking(folder, limits)
        with self._lock:
            self._unpacking = unpacking
            stopped = self._stopped
        if stopped:
            return ""
        try:
            return unpacking.run(package)
        finally:
            with self._lock:
                self._unpacking = None

    def _lay_out_inputs(self) -> None:
        """What other steps made, beside the working directory. It is no part of what the run leaves."""
        inputs.check_room(self.work_dir)
        limits = self._limits

        def unpack(package: int, folder: Path, left_bytes: int) -> bool:
            bounds = PackageLimits(min(left_bytes, limits.max_unpacked_bytes), MAX_RESULT_ENTRIES, _ANY_RATIO)
            self._unpack_into(
                folder,
                package,
                UnpackLimits(
                    package=bounds,
                    max_workdir_bytes=limits.max_workdir_bytes,
                    max_seconds=self._job.max_run_seconds,
                    runs=False,
                ),
            )
            return not self._stopped

        inputs.lay_out(self._job.inputs, self._inputs_dir, unpack, max_bytes=limits.max_workdir_bytes)
        (self.work_dir / INPUTS).mkdir()  # where a runner shows them

    def _spec(self, entry: str) -> RunSpec:
        job, limits = self._job, self._limits
        return RunSpec(
            attempt_id=job.attempt_id,
            task_id=job.task_id,
            node_id=job.node_id,
            work_dir=self.work_dir,
            inputs_dir=self._inputs_dir if self._job.inputs else None,
            entry=entry,
            arguments=job.arguments,
            environment=job.environment,
            secrets=job.secrets,
            memory_bytes=job.memory_bytes,
            cpus=job.cpus,
            gpu=job.gpu,
            image=job.image,
            network=job.network,
            max_run_seconds=job.max_run_seconds,
            max_workdir_bytes=limits.max_workdir_bytes,
            tmpfs_bytes=limits.tmpfs_bytes,
            pids_limit=limits.pids_limit,
            again=job.again,
        )


def memory_bytes(memory_gb: int, memory_mb: int = 0) -> int:
    """An older pool says it in GiB only."""
    return memory_mb * _MIB or memory_gb * _GIB or DEFAULT_MEMORY_BYTES


def cores_for(cpu_score: int, *, score_per_core: float, cores: int) -> float:
    """A task that asks for nothing gets one core; nobody gets more than there are."""
    wanted = cpu_score / score_per_core if cpu_score else 1.0
    return min(float(cores), wanted)


def judge(end: RunEnd) -> tuple[Outcome, str]:
    """Outcome and reason of a run that nobody but its owner stopped."""
    if end.stopped:
        return Outcome.STOPPED, "stopped by its owner"
    if end.problem:
        return Outcome.FAILED, end.problem
    if end.exit_code == 0:
        return Outcome.SUCCEEDED, ""
    if end.exit_code > 0:
        return Outcome.FAILED, f"the task ended with exit code {end.exit_code}"
    return Outcome.FAILED, f"the task was ended by signal {_signal_name(-end.exit_code)}"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _not_begun() -> RunEnd:
    return RunEnd(exit_code=-signal.SIGTERM, stopped=True, problem="", cpu_seconds=0.0, peak_memory_bytes=0)
