"""One attempt of the pool, from its claim to the acknowledged end, on a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from nodepool.domain.capabilities import ALL as CAPABILITIES
from nodepool.domain.errors import InvalidPackageError
from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.domain.tasks.states import Outcome
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import outcome_to_wire
from worker_agent.attempt_job import EnrolmentTerms, job_of
from worker_agent.execution import Done, Execution, cores_for, judge
from worker_agent.gateway_client import (
    GatewayClient,
    GatewayGivenUpError,
    GatewayRefusedError,
    GatewayStaleError,
)
from worker_agent.inputs import RunInput
from worker_agent.journal import MAX_TAIL_BYTES, EndReport, Entry, EntryPhase, Journal
from worker_agent.output_stream import OutputStream
from worker_agent.package import PackageCache
from worker_agent.runners.base import Runner, RunRefusedError, Usage, code_of_os_error
from worker_agent.runners.sandbox import attempt_slug
from worker_agent.state import (
    Allocation,
    AttemptEnded,
    AttemptSettled,
    AttemptStale,
    AttemptStarted,
    Event,
    StopAsked,
    StopCause,
)
from worker_agent.trash import Trash
from worker_agent.unpacking import Unpacker

log = structlog.get_logger(__name__)

_OFFERED_HASHES = 32
# Causes for which the gateway is not asked any further; a stop by the owner still wants its result.
_CUTTING = frozenset({StopCause.AWAY, StopCause.LEASE, StopCause.SHUTDOWN, StopCause.REPLACED})
_SHUTTING_DOWN = "the node is shutting down"
_OF_THE_MACHINE = frozenset({ReasonCode.DISK_FULL, ReasonCode.TOO_LITTLE_DISK, ReasonCode.ENGINE_AWAY})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptContext:
    """What every attempt of the node works with."""

    node_id: str
    link: GatewayClient
    runner: Runner
    journal: Journal
    cache: PackageCache
    runs_dir: Path
    trash: Trash
    unpacker: Unpacker
    cores: int
    score_per_core: float
    terms: Callable[[], EnrolmentTerms]
    owner_only: bool  # tasks of others are refused
    emit: Callable[[Event], None]
    closing: Callable[[], bool]  # nobody waits for acknowledgements any more
    look_at_health: Callable[[], None]  # something of the machine itself was in the way


class _CacheMissError(Exception):
    """The package was offered from the cache and has gone since."""


class Attempt:
    """`start` once; `stop` and `usage` from any thread."""

    def __init__(
        self, attempt_id: str, workshop: AttemptContext, work: Callable[[Attempt], EndReport | None]
    ) -> None:
        self.attempt_id = attempt_id
        self.task_id = ""  # which the pool says when it is claimed
        self._exclusive = False
        self.done = threading.Event()
        self._shop = workshop
        self._work = work
        self._lock = threading.Lock()
        self._cause: StopCause | None = None
        self._execution: Execution | None = None
        self._thread = threading.Thread(target=self._main, name=f"attempt {attempt_id}", daemon=True)

    @classmethod
    def of_pool(cls, attempt_id: str, workshop: AttemptContext) -> Attempt:
        return cls(attempt_id, workshop, Attempt._claim_and_run)

    @classmethod
    def ended(cls, attempt_id: str, workshop: AttemptContext, end: EndReport) -> Attempt:
        """One whose end is known already: refused, or left by an earlier life of the agent."""
        return cls(attempt_id, workshop, lambda _: end)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def stop(self, cause: StopCause) -> None:
        """The first cause counts."""
        with self._lock:
            self._cause = self._cause or cause
            execution = self._execution
        if execution is not None:
            execution.stop()

    def resize(self, allocation: Allocation) -> None:
        """The pool keeps this much for the run now. Returns at once; nothing while it is not running."""
        with self._lock:
            execution = self._execution
        if execution is not None:
            execution.resize(
                memory_bytes=allocation.memory_mb << 20, cpus=self._cores_for(allocation.cpu_score)
            )

    def usage(self) -> Usage:
        with self._lock:
            execution = self._execution
        return Usage(0.0, 0) if execution is None else execution.usage()

    # -- the thread ----------------------------------------------------------------------------------
    def _main(self) -> None:
        try:
            with structlog.contextvars.bound_contextvars(attempt_id=self.attempt_id):
                end = self._worked()
                if end is None:
                    self._shop.journal.remove(self.attempt_id)
                else:
                    self._report_end(end)
                self._clean()
        except Exception:
            # Its journal entry stays: the next start of the agent tells the gateway.
            log.exception("an attempt's thread failed", action="attempt.broken", attempt_id=self.attempt_id)
        finally:
            self._shop.emit(AttemptSettled(self.attempt_id))
            self.done.set()

    def _worked(self) -> EndReport | None:
        try:
            return self._work(self)
        except Exception:
            log.exception("the agent failed at an attempt", action="attempt.broken")
            return EndReport(outcome=Outcome.LOST, reason="the node's agent failed at this attempt")

    def _claim_and_run(self) -> EndReport | None:
        try:
            entry = Entry(self.attempt_id, EntryPhase.CLAIMED)
            self._shop.journal.write(entry, durable=True)
            spec, package = self._claim()
            try:
                return self._run(spec, package)
            finally:
                os.close(package)
        except GatewayStaleError as error:
            log.info("the attempt is not ours any more", action="attempt.stale", reason=str(error))
            return None
        except GatewayGivenUpError:
            return self._cut_off()
        except GatewayRefusedError as error:
            log.error("the gateway refuses the claim", action="attempt.claim_refused", reason=str(error))
            return None
        except RunRefusedError as error:
            return EndReport(outcome=Outcome.REFUSED, reason=str(error), reason_code=error.code)
        except InvalidPackageError as error:
            return EndReport(outcome=Outcome.FAILED, exit_code=1, reason=str(error))
        except OSError as error:
            log.exception("the node cannot run the attempt", action="attempt.node_failed")
            return EndReport(
                outcome=Outcome.REFUSED,
                reason=f"the node's disk or system failed: {error.strerror}",
                reason_code=code_of_os_error(error),
            )

    def _claim(self) -> tuple[pb.AttemptSpec, int]:
        hashes = self._shop.cache.hashes(_OFFERED_HASHES)
        try:
            return self._claim_with(hashes)
        except _CacheMissError:
            return self._claim_with([])

    def _claim_with(self, hashes: list[str]) -> tuple[pb.AttemptSpec, int]:
        request = pb.ClaimAttemptRequest(
            node_id=self._shop.node_id,
            attempt_id=self.attempt_id,
            cached_sha256=hashes,
            capabilities=CAPABILITIES,
        )
        return self._shop.link.claim(request, self._keep_package, self._is_cut)

    def _keep_package(self, spec: pb.AttemptSpec, chunks: Iterator[bytes]) -> int:
        try:
            if spec.package_follows:
                return self._shop.cache.store(spec.package_sha256, chunks, spec.package_bytes)
            package = self._shop.cache.open(spec.package_sha256)
        except InvalidPackageError as error:
            raise RunRefusedError(
                f"the package did not arrive whole: {error}", ReasonCode.PACKAGE_NOT_WHOLE
            ) from error
        if package is None:
            raise _CacheMissError
        return package

    def _run(self, spec: pb.AttemptSpec, package: int) -> EndReport | None:
        shop = self._shop
        self.task_id = spec.task_id
        self._exclusive = spec.exclusive
        terms = shop.terms()
        execution = Execution(
            shop.runner,
            shop.unpacker,
            job_of(
                spec,
                terms,
                attempt_id=self.attempt_id,
                node_id=shop.node_id,
                owner_only=shop.owner_only,
                cpus=self._cores_for(spec.cpu_score),
                inputs=[self._input(number, one) for number, one in enumerate(spec.inputs)],
            ),
            terms.limits,
            shop.runs_dir / attempt_slug(self.attempt_id),
            shop.trash.throw,
        )
        with self._lock:
            self._execution = execution
            stopped = self._cause is not None
        if stopped:
            execution.stop()
        if spec.stop_requested:
            shop.emit(StopAsked(self.attempt_id))
        stream = self._stream(execution)
        try:
            done = execution.run(package, self._started)
        except RunRefusedError as error:
            raise RunRefusedError(execution.without_secrets(str(error)), error.code) from None
        finally:
            execution.output.close()
        if self._is_cut():
            return self._cut_off()
        return self._end(execution, done, stream)

    def _input(self, number: int, told: pb.AttemptInput) -> RunInput:
        request = pb.FetchInputRequest(node_id=self._shop.node_id, attempt_id=self.attempt_id, number=number)
        link = self._shop.link
        return RunInput(
            told.path, told.result_bytes, lambda keep: link.fetch_input(request, keep, self._is_cut)
        )

    def _cores_for(self, cpu_score: int) -> float:
        return cores_for(cpu_score, score_per_core=self._shop.score_per_core, cores=self._shop.cores)

    def _stream(self, execution: Execution) -> OutputStream:
        stream = OutputStream(
            self._shop.link,
            self._shop.node_id,
            self.attempt_id,
            execution.output,
            MAX_TAIL_BYTES,
            on_stop_asked=lambda: self._shop.emit(StopAsked(self.attempt_id)),
            on_stale=lambda: self._shop.emit(AttemptStale(self.attempt_id)),
        )
        stream.start()
        return stream

    def _started(self) -> None:
        self._shop.journal.write(Entry(self.attempt_id, EntryPhase.RUNNING), durable=False)
        self._shop.emit(AttemptStarted(self.attempt_id, self._exclusive))

    def _end(self, execution: Execution, done: Done, stream: OutputStream) -> EndReport:
        outcome, reason = judge(done.end)
        reason = execution.without_secrets(reason)
        path = self._shop.journal.result_path(self.attempt_id)
        result = execution.pack(done, outcome, reason, path)
        end = EndReport(
            outcome=outcome,
            exit_code=done.end.exit_code,
            reason=reason,
            result_name=path.name,
            result_sha256=result.sha256,
            result_bytes=result.size_bytes,
            started_at=done.started_at,
            finished_at=done.finished_at,
            cpu_seconds=done.end.cpu_seconds,
            peak_memory_bytes=done.end.peak_memory_bytes,
            run_seconds=done.run_seconds,
        )

        def until(offset: int) -> EndReport:
            return replace(
                end, output_offset=offset, output_tail=execution.output.chunk(offset, MAX_TAIL_BYTES)
            )

        if stream.is_behind():
            # The gateway may be away for long: whatever becomes of this agent, the run is not lost.
            with contextlib.suppress(OSError):
                entry = Entry(self.attempt_id, EntryPhase.ENDED, until(stream.tail_offset()))
                self._shop.journal.make_durable(entry)
        return until(stream.end(self._is_cut))

    def _is_cut(self) -> bool:
        return self._cause in _CUTTING or self._shop.closing()

    def _cut_off(self) -> EndReport | None:
        if self._cause is StopCause.SHUTDOWN or self._shop.closing():
            return EndReport(
                outcome=Outcome.REFUSED, reason=_SHUTTING_DOWN, reason_code=ReasonCode.NODE_LEAVING
            )
        if self._cause is StopCause.LEASE:
            return EndReport(outcome=Outcome.LOST, reason="the node had no contact with the pool")
        if self._cause is StopCause.REPLACED:
            return EndReport(outcome=Outcome.LOST, reason="another agent was started with this node's id")
        return None

    # -- the end -------------------------------------------------------------------------------------
    def _report_end(self, end: EndReport) -> None:
        entry = Entry(self.attempt_id, EntryPhase.ENDED, end)
        journal = self._shop.journal
        with contextlib.suppress(OSError):  # a full disk must not keep the end from being told
            journal.write(entry, durable=False)
        self._shop.emit(AttemptEnded(self.attempt_id))
        if end.reason_code in _OF_THE_MACHINE:
            self._shop.look_at_health()
        tries = 0

        def give_up() -> bool:
            nonlocal tries
            tries += 1
            if tries == 2:
                # The gateway is away: from now on the result may have to last.
                with contextlib.suppress(OSError):
                    journal.make_durable(entry)
            return self._shop.closing()

        path = journal.results / end.result_name if end.result_name else None
        message = end_to_wire(self._shop.node_id, self.attempt_id, end)
        try:
            self._shop.link.finish(message, path, give_up)
        except GatewayGivenUpError:
            log.warning("the end is kept until the next start", action="attempt.end_kept")
            return
        except GatewayStaleError as error:
            log.info("the end came too late", action="attempt.stale", reason=str(error))
        except GatewayRefusedError as error:
            log.error("the gateway refuses the end", action="attempt.end_refused", reason=str(error))
        else:
            log.info("an attempt has ended", action="attempt.ended", outcome=str(end.outcome), why=end.reason)
        journal.remove(self.attempt_id)

    def _clean(self) -> None:
        if self._execution is not None:
            with contextlib.suppress(OSError):
                self._execution.clean()


def end_to_wire(node_id: str, attempt_id: str, end: EndReport) -> pb.AttemptEnd:
    return pb.AttemptEnd(
        node_id=node_id,
        attempt_id=attempt_id,
        outcome=outcome_to_wire(Outcome(end.outcome)),
        exit_code=end.exit_code,
        reason=end.reason,
        output_offset=end.output_offset,
        output_tail=end.output_tail,
        result_sha256=end.result_sha256,
        result_bytes=end.result_bytes,
        started_at=end.started_at,
        finished_at=end.finished_at,
        cpu_seconds=end.cpu_seconds,
        peak_memory_bytes=end.peak_memory_bytes,
        reason_code=end.reason_code,
        # Of what did not run there is nothing to be paid for.
        run_seconds=end.run_seconds if end.run_seconds > 0 else None,
    )
