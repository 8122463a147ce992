"""The agent's shell: performs what `state.py` decides, and holds the parts together.

Decisions are made under one lock, and what they ask for is begun under it too; nothing that is begun
there blocks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from nodepool.domain.errors import NodePoolError
from nodepool.domain.tasks.reason_classes import code_of_words
from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.domain.tasks.states import Outcome
from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.attempt import Attempt, AttemptContext
from worker_agent.attempt_job import EnrolmentTerms
from worker_agent.celery_consumer import Consumer
from worker_agent.docker_watch import EngineWatch
from worker_agent.enrolment import board_of, consumer_options_of, limits_of, terms_of
from worker_agent.gateway_client import GatewayClient, GatewayGivenUpError, LoginRefusedError
from worker_agent.gateway_reports import GatewayReports
from worker_agent.health import NodeHealth
from worker_agent.heartbeat import Heartbeat, HeartbeatOptions, check_broker
from worker_agent.journal import EndReport, Journal, end_of_earlier_life
from worker_agent.lease import NO_LIMITS, PoolContact
from worker_agent.output_stream import monotonic_seconds
from worker_agent.package import PackageCache
from worker_agent.registration import NodeSetup, Registration, ReplacedError
from worker_agent.runners.base import Runner, RunRefusedError
from worker_agent.state import (
    AgentState,
    AskPool,
    AssignedListing,
    AssignedRead,
    AttemptSettled,
    Contact,
    Delivered,
    DrainBegan,
    EngineTold,
    Event,
    GraceOver,
    Instruction,
    PickedUp,
    RefuseAttempt,
    Replaced,
    ResizeAttempt,
    RestartConsumer,
    StartAttempt,
    StopAsked,
    StopAttempt,
    Tick,
)
from worker_agent.trash import Trash
from worker_agent.unpacking import Unpacker
from worker_agent.usage_report import build_report

log = structlog.get_logger(__name__)

_TICK_SECONDS = 0.5
_CACHE_BYTES = 1 << 30
# Ending runs takes 1.5 s at most; the rest is for telling the gateway.
_FAREWELL_SECONDS, _RPC_AT_END_SECONDS = 8.0, 3.0
_LEAVING_SECONDS = 20.0  # each part has a bound of its own; this is for one that hangs


class Agent:
    """`run` in the main thread; `ask_to_stop` from a signal handler, a second time for "at once".

    `on_turn` is called every second or so while it decides anything, `on_leaving` with the seconds left."""

    on_turn: Callable[[], object] = bool
    on_leaving: Callable[[float], object] = bool

    def __init__(
        self, setup: NodeSetup, link: GatewayClient, runner: Runner, on_online: Callable[[], None]
    ) -> None:
        self._setup = setup
        self._link = link
        self._membership = Registration(link, setup.registration)
        self._replaced: ReplacedError | None = None
        self._shut_out: LoginRefusedError | None = None
        self._runner = runner
        self._on_online = on_online
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._attempts: dict[str, Attempt] = {}
        # Not an Event, whose lock the one may hold that a signal handler interrupts.
        self._requests: SimpleQueue[str] = SimpleQueue()
        self._stop_asked, self._hurry = threading.Event(), threading.Event()
        self._set_up, self._ready = threading.Event(), threading.Event()
        self._closing, self._drained = threading.Event(), threading.Event()
        self._state = AgentState(NO_LIMITS, PoolContact(monotonic_seconds()))
        self._gateway_reports = GatewayReports(link, self._membership, self._report, self.handle)
        self.trash = Trash(setup.data_dir / "trash")
        self.unpacker = Unpacker()
        self._workshop = AttemptContext(
            node_id=setup.node_id,
            link=link,
            runner=runner,
            journal=Journal(setup.data_dir / "journal"),
            cache=PackageCache(setup.data_dir / "packages", _CACHE_BYTES),
            runs_dir=setup.data_dir / "runs",
            trash=self.trash,
            unpacker=self.unpacker,
            cores=setup.cores,
            score_per_core=setup.score_per_core,
            terms=self.terms,
            owner_only=setup.owner_only,
            emit=self.handle,
            closing=self._closing.is_set,
            look_at_health=lambda: self._engine_watch.look_soon(),  # noqa: PLW0108 - made below
        )
        self._terms: EnrolmentTerms | None = None
        tell = (self._membership, self._leave_to, self._closing.is_set)
        self._health = NodeHealth(runner, self.trash, setup.data_dir, *tell)
        self._engine_watch = EngineWatch(self._problem, self._engine_changed, self._report_period)
        self._consumer: Consumer
        self._heartbeat: Heartbeat

    # -- its life ------------------------------------------------------------------------------------
    def run(self) -> None:
        """Until it was asked to stop and has handed back its work.

        Raises LinkRefusedError when the gateway does not want this node, LoginRefusedError when it does
        not let its owner in (any more), BrokerNotTrustedError when TLS with the broker fails,
        RunRefusedError when what earlier lives left running cannot be ended, ReplacedError when another agent
        has the node now.
        """
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        leftovers = self._end_earlier_life()
        self._engine_watch.told = self._health.begin()
        self.handle(EngineTold(self._engine_watch.told))
        try:
            enrolment = self._enroll(self._stop_asked.is_set)
        except LoginRefusedError:
            raise
        except GatewayGivenUpError:
            return
        self._link.on_contact = self._contact
        self._link.on_login_refused = self._login_refused
        check_broker(board := board_of(enrolment))
        options = consumer_options_of(enrolment, self._setup.node_id, self._setup.max_tasks)
        self._consumer = Consumer(options, self.execute, self.stop_attempt, self._ready.set)
        self._heartbeat = Heartbeat(
            board,
            self._report,
            self._assigned_read,
            self._enroll_again,
            self._keep_pace,
            self._gateway_reports.send,
            self._broker_silent,
        )
        for attempt_id, end in leftovers:
            self.handle(PickedUp(attempt_id, monotonic_seconds()))
            self._begin(Attempt.ended(attempt_id, self._workshop, end))
        self._set_up.set()
        self._heartbeat.start()
        self._engine_watch.start()
        threading.Thread(target=self._announce, name="announce", daemon=True).start()
        self._consumer.run()
        self._drained.wait()
        if reason := self._replaced or self._shut_out:
            raise reason

    def ask_to_stop(self) -> None:
        """Safe in a signal handler."""
        self._requests.put("stop")

    def close(self) -> None:
        self._closing.set()
        self._engine_watch.close()
        self._link.close()
        with self._lock:
            for attempt in self._attempts.values():
                attempt.done.set()  # Celery's threads wait for it, and the process for them
        self._runner.close()
        self.unpacker.close()
        self.trash.close()

    # -- what its parts tell it ----------------------------------------------------------------------
    def execute(self, attempt_id: str) -> None:
        """Returns when the attempt has ended here; at once when it is held already."""
        with self._lock:
            known = attempt_id in self._attempts
            self.handle(Delivered(attempt_id, monotonic_seconds()))
            attempt = self._attempts.get(attempt_id)
        if attempt is not None and not known:
            attempt.done.wait()

    def stop_attempt(self, attempt_id: str) -> None:
        self.handle(StopAsked(attempt_id))

    def terms(self) -> EnrolmentTerms:
        """Raises RunRefusedError before the pool has said them."""
        if self._terms is None:
            raise RunRefusedError("this node is not enrolled yet")
        return self._terms

    def attempts_of(self, task_id: str) -> list[str]:
        with self._lock:
            return [name for name, attempt in self._attempts.items() if attempt.task_id == task_id]

    def handle(self, event: Event) -> None:
        with self._lock:
            for instruction in self._state.handle(event):
                self._perform(instruction)
            if isinstance(event, AttemptSettled):
                self._attempts.pop(event.attempt_id, None)
                self._changed.notify_all()

    def _contact(self) -> None:
        self.handle(Contact(monotonic_seconds()))

    def _assigned_read(self, assigned: Mapping[str, AssignedListing], sent_at: float) -> None:
        self.handle(AssignedRead(assigned, monotonic_seconds(), sent_at))

    def _keep_pace(self, period_seconds: float) -> None:
        with self._lock:
            self._state.limits = replace(self._state.limits, report_period_seconds=period_seconds)

    def _problem(self) -> str:
        return self._health.look(self._terms.limits.max_workdir_bytes if self._terms is not None else 0)

    def _report_period(self) -> float:
        return self._state.limits.report_period_seconds

    def _report(self) -> dict[str, Any]:
        with self._lock:
            attempts = dict(self._attempts)
        return build_report(attempts, score_per_core=self._setup.score_per_core)

    # -- what is decided -----------------------------------------------------------------------------
    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case StartAttempt(attempt_id):
                self._begin(Attempt.of_pool(attempt_id, self._workshop))
            case RefuseAttempt(attempt_id, reason):
                code = code_of_words(reason) or ReasonCode.NODE_FAILED
                end = EndReport(outcome=Outcome.REFUSED, reason=reason, reason_code=code)
                self._begin(Attempt.ended(attempt_id, self._workshop, end))
            case StopAttempt(attempt_id, cause):
                log.info(
                    "an attempt is stopped", action="attempt.stop", attempt_id=attempt_id, cause=str(cause)
                )
                self._attempts[attempt_id].stop(cause)
            case ResizeAttempt(attempt_id, allocation):
                log.debug("an attempt is resized", action="attempt.resize", attempt_id=attempt_id)
                self._attempts[attempt_id].resize(allocation)
            case RestartConsumer():
                self._consumer.restart()
            case AskPool():
                self._gateway_reports.ask()

    def _begin(self, attempt: Attempt) -> None:
        with self._lock:
            self._attempts[attempt.attempt_id] = attempt
            attempt.start()

    # -- beginning -----------------------------------------------------------------------------------
    def _end_earlier_life(self) -> list[tuple[str, EndReport]]:
        """Ends what still runs, and returns what is to be told of it."""
        ended = self._runner.reap(())
        with contextlib.suppress(OSError):
            self.trash.throw(self._workshop.runs_dir)
        self._workshop.runs_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        journal = self._workshop.journal
        found = [(e.attempt_id, end_of_earlier_life(e, journal.results)) for e in journal.entries()]
        if ended or found:
            log.warning("an earlier life left work", action="start.leftovers", ended=ended, told=len(found))
        return found

    def _enroll(self, give_up: Callable[[], bool]) -> pb.EnrollAgentResponse:
        enrolment = self._membership.enrol(give_up)
        if self._setup.broker_ca_pem:
            enrolment.broker_ca_pem = self._setup.broker_ca_pem
        self._terms = terms_of(enrolment)
        self._gateway_reports.wanted = bool(enrolment.outage_grace_seconds)
        with self._lock:
            self._state.limits = limits_of(enrolment, self._setup.max_tasks)
            self._state.contact.enrolled(monotonic_seconds(), first=not self._set_up.is_set())
        return enrolment

    def _enroll_again(self) -> HeartbeatOptions | None:
        """The broker has forgotten this agent or its password. Blocks while the gateway is away."""
        try:
            enrolment = self._enroll(self._closing.is_set)
        except ReplacedError as error:
            self._leave_to(error)
            return None
        except NodePoolError as error:
            log.error("the gateway does not enrol this node", action="enrol.refused", reason=str(error))
            return None
        self._consumer.rebuild(consumer_options_of(enrolment, self._setup.node_id, self._setup.max_tasks))
        return board_of(enrolment)

    def _engine_changed(self, problem: str) -> bool:
        """Work that comes all the same is refused."""
        if problem:
            self.handle(EngineTold(problem))
        if told := self._health.tell(problem):
            self.handle(EngineTold(problem))
        return told

    def _broker_silent(self) -> None:
        log.warning("the broker is silent, the consumer connects again", action="consumer.silent")
        self._consumer.reconnect()

    def _announce(self) -> None:
        self._ready.wait()
        self._heartbeat.reported.wait()
        log.info("the node is online", action="agent.online")
        self._on_online()

    # -- time and the end ----------------------------------------------------------------------------
    def _watch(self) -> None:
        """Keeps the lease, and takes what signal handlers ask for."""
        while not self._closing.is_set():
            with contextlib.suppress(Empty):
                self._requests.get(timeout=_TICK_SECONDS)
                self._stop_requested()
            self.handle(Tick(monotonic_seconds()))
            self.on_turn()

    def _login_refused(self, error: LoginRefusedError) -> None:
        """No end and no output gets through any more: as at a stop, and ends are kept for the next start."""
        with self._lock:
            if self._shut_out is not None:
                return
            self._shut_out = error
        log.error("the agent ends: it is not let in any more", action="agent.shut_out", reason=str(error))
        self.ask_to_stop()

    def _leave_to(self, error: ReplacedError) -> None:
        """Another agent has this node. It keeps the node's registration, so nothing is signed off here."""
        with self._lock:
            if self._replaced is not None:
                return
            self._replaced = error
        log.error("this agent ends, and its runs with it", action="agent.replaced", reason=str(error))
        threading.Thread(target=self._end_replaced, name="replaced", daemon=True).start()

    def _end_replaced(self) -> None:
        self._set_up.wait()
        try:
            self.handle(Replaced())
            self._consumer.end()
            self._wait_idle(_FAREWELL_SECONDS, hurry=False)
            self._heartbeat.close()
        finally:
            self._drained.set()

    def _stop_requested(self) -> None:
        if self._stop_asked.is_set():
            log.warning("asked a second time: runs are ended now", action="drain.hurry")
            with self._lock:
                self._hurry.set()
                self._changed.notify_all()
            return
        self._stop_asked.set()
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        self._set_up.wait()
        log.info("the node leaves the pool", action="drain.began", held=len(self._attempts))
        try:
            self.on_leaving(self._setup.grace_seconds + _FAREWELL_SECONDS + _LEAVING_SECONDS)
            self.handle(DrainBegan())
            self._consumer.end()
            if self._replaced is None:
                self._say(lambda late: self._link.set_draining(self._setup.node_id, late))
            self._wait_idle(self._setup.grace_seconds, hurry=True)
            self.handle(GraceOver())
            self._wait_idle(_FAREWELL_SECONDS, hurry=False)
            self._heartbeat.close()
            if self._replaced is None:
                self._say(lambda late: self._link.deregister(self._setup.node_id, late))
        finally:
            self.on_leaving(_LEAVING_SECONDS)
            self._drained.set()

    def _wait_idle(self, seconds: float, *, hurry: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._attempts or (hurry and self._hurry.is_set()), seconds)

    def _say(self, call: Callable[[Callable[[], bool]], None]) -> None:
        """Tell the gateway, if it is there; the pool finds out by itself otherwise."""
        deadline = time.monotonic() + _RPC_AT_END_SECONDS
        try:
            call(lambda: time.monotonic() > deadline)
        except NodePoolError as error:
            log.warning("the gateway was not told", action="drain.untold", reason=str(error))
