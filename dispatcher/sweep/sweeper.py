"""The sweep: every so often, whatever messages were lost is derived again from SQL.

It brings Redis in line with SQL (a FLUSHALL loses nothing), ends attempts of nodes that are late,
and tells of tasks that wait. One dispatcher sweeps at a time; a lock with a TTL says which. One that stood
still and lost it in the middle of a pass gives nothing away by what it read before.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.placing.reserve import lose
from dispatcher.sweep.brake import Brake
from dispatcher.sweep.broker_change import BrokerChange
from dispatcher.sweep.broker_connections import BrokerGuard
from dispatcher.sweep.credit_drift import CreditDrift
from dispatcher.sweep.forgotten_attempts import ForgottenAttempts, ids_of
from dispatcher.sweep.housekeeping import Housekeeping
from dispatcher.sweep.jobs import JobKeeper
from dispatcher.sweep.left_outputs import LeftOutputs
from dispatcher.sweep.lost_hints import tell_again
from dispatcher.sweep.notifications import NotificationTeller
from dispatcher.sweep.overdue_attempts import OverdueAttempts
from dispatcher.sweep.own_outages import SweepOutages
from dispatcher.sweep.pending_votes import PendingVotes
from dispatcher.sweep.prober import Prober
from dispatcher.sweep.pushed_attempts import PushedAttempts
from dispatcher.sweep.reclaimer import Reclaimer
from dispatcher.sweep.reconciler import Live, Reconciler, RotatingSlices
from dispatcher.sweep.retry_waits import RetryWaits
from dispatcher.sweep.silence_teller import SilenceTeller
from dispatcher.sweep.stored_files import StoredFiles
from nodepool.clock import PoolClock
from nodepool.domain.broker_owner import ForeignBrokerError
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.nodes import report_interval
from nodepool.domain.nodes.failure_detector import ExpectedNode, FailureDetector
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.outages import OutageCause
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.metrics import catalogue
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.memory_guard import MemoryGuard
from nodepool.stores.redis.node_registry import NodeReport
from nodepool.stores.redis.sweep_lock import LockHolder, SweepLock
from nodepool.stores.redis.sweep_mark import SweepMarks
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.attempt_rows import LiveAttempt

log = logging.getLogger(__name__)

_QUESTIONED_WITHIN_PASSES = 5
_SHORTEST_PAUSE_SECONDS = 0.1
_JUST_LATE_SECONDS = 0.02
# The placement loop hangs when a round of it takes so long: what it waits for has bounds far below.
_PLACING_STUCK_SECONDS = 60.0


def _end_this_process() -> None:
    """In order; whoever starts it again is told why it does not start."""
    os.kill(os.getpid(), signal.SIGTERM)


class LostLeadError(NodePoolError):
    """Another dispatcher swept meanwhile, or this one stood still: what this pass read may be old."""


class Sweeper:
    """A thread beside the worker, so that a backlog of hints cannot hold the sweep up."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        placement_loop: PlacementLoop,
        give_up: Callable[[], None] = _end_this_process,
    ) -> None:
        """`give_up`: what to do where the broker is another pool's now."""
        self._dispatcher, self._give_up = dispatcher, give_up
        self._placement_loop = placement_loop
        self._stopped = threading.Event()
        self._lock, self._marks = SweepLock(dispatcher.redis), SweepMarks(dispatcher.redis)
        # Of the lock, while a pass of the loop is under way.
        self._lead_seconds: float | None = None
        self._turned_at, self._is_waiting = time.monotonic(), True
        now = dispatcher.clock()
        self._liveness = Liveness(dispatcher.redis)
        self._reconciler = Reconciler(dispatcher, self._liveness)
        self._pushed = PushedAttempts(dispatcher)
        self._overtime = OverdueAttempts(dispatcher)
        self._allocator = Reclaimer(dispatcher)
        self._credit_drift = CreditDrift(dispatcher)
        self._prober = Prober(dispatcher, placement_loop)
        self._comparisons = PendingVotes(dispatcher)
        self._storage = StoredFiles(dispatcher)
        self._housekeeping = Housekeeping(dispatcher)
        self._broker_change = BrokerChange(
            dispatcher.redis,
            lambda: [node.id for node in dispatcher.database.read(node_store.roll_call)],
            dispatcher.own_broker.check,
        )
        self._broker_guard = BrokerGuard(dispatcher.redis, dispatcher.settings.broker_connections_per_node)
        self._memory_guard = MemoryGuard(
            dispatcher.redis, dispatcher.lifecycle.outputs, dispatcher.settings.max_live_output_mb << 20
        )
        self._outputs_left = LeftOutputs(dispatcher)
        self._failure_detector = FailureDetector(
            dispatcher.steady(),
            dispatcher.settings.node_late_seconds,
            grace_seconds=dispatcher.settings.outage_grace_seconds,
        )
        self._outages, self._jobs = SweepOutages(dispatcher), JobKeeper(dispatcher, placement_loop)
        self._retries, self._presence = RetryWaits(dispatcher, placement_loop), SilenceTeller(dispatcher)
        self._brake = Brake(dispatcher, self._failure_detector, self._outages)
        self._forgotten, self._teller = ForgottenAttempts(dispatcher), NotificationTeller(dispatcher)
        # Who is asked in a pass whether it still has its work.
        self._questioned = RotatingSlices(_QUESTIONED_WITHIN_PASSES)
        # Nobody can begin or end an attempt, nor be heard, during an outage.
        self._all_back_at = now
        self._next_late_at = float("inf")
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=10)
        self._housekeeping.close()

    def stuck_seconds(self) -> float:
        """Since a pass began that has not ended."""
        return 0.0 if self._is_waiting else time.monotonic() - self._turned_at

    def _work(self) -> None:
        period = self._dispatcher.settings.sweep_period_seconds
        while not self._stopped.wait(self._pause(period)):
            self._turned_at, self._is_waiting = time.monotonic(), False
            self._next_late_at = float("inf")
            self._retries.forget()
            try:
                if self._mine(period):
                    self._sweep_and_say(period)
                else:
                    catalogue.sweeps.labels("another").inc()
            except ForeignBrokerError as error:
                log.critical("this dispatcher ends: %s", error)
                self._give_up()
                return
            except LostLeadError as error:
                catalogue.sweeps.labels("another").inc()
                log.warning("the pass is left: %s", error)
            except NodePoolError as error:
                catalogue.sweeps.labels("failed").inc()
                self._failed(error)
                log.warning("the sweep waits: %s", error)
            except Exception as error:
                catalogue.sweeps.labels("failed").inc()
                self._failed(error)
                log.exception("the sweep failed; it goes on")
            self._lead_seconds, self._is_waiting = None, True

    def _sweep_and_say(self, period_seconds: float) -> None:
        """What a pass leaves behind: gateways tell from it that a dispatcher works."""
        began = time.monotonic()
        self.sweep()
        # On a thread of its own, which `stop` waits for: a pass is done when it returns.
        self._housekeeping.look()
        seconds = time.monotonic() - began
        catalogue.sweeps.labels("done").inc()
        catalogue.sweep_seconds.observe(seconds)
        places = self._placement_loop.stuck_seconds() < _PLACING_STUCK_SECONDS
        self._marks.leave(period_seconds=period_seconds, pass_seconds=seconds, places=places)

    def _mine(self, period_seconds: float) -> bool:
        # Before anything there is touched: to another pool's database all of it would be left over.
        self._dispatcher.own_broker.check()
        seconds = max(3 * period_seconds, 3.0)
        try:
            holder = self._lock.take(seconds)
        except UnavailableError as error:
            self._failed(error)
            log.warning("the sweep waits for Redis: %s", error.__cause__)
            return False
        if holder is LockHolder.OURS_NOW:
            # What was heard while another one swept, or before Redis lost its keys, is unknown.
            self._forgotten_by_redis()
        if holder is LockHolder.ANOTHER:
            self._outages.left_to_another()
        self._lead_seconds = seconds
        return holder is not LockHolder.ANOTHER

    def _keep_lead(self) -> None:
        """Before what cannot be taken back. Raises LostLeadError; what was late before is not any more."""
        if self._lead_seconds is None:
            return
        if self._lock.take(self._lead_seconds) is not LockHolder.STILL_OURS:
            self._forgotten_by_redis()
            raise LostLeadError

    def _pause(self, period_seconds: float) -> float:
        """The period, or less where a node with work would be late before that, or a try is due."""
        until_late = self._next_late_at - self._dispatcher.steady()
        until_next = min(until_late, self._retries.seconds_left()) + _JUST_LATE_SECONDS
        return min(period_seconds, max(_SHORTEST_PAUSE_SECONDS, until_next))

    def _failed(self, error: Exception) -> None:
        """Something does not answer. Redis may have forgotten; if it was an outage, its end will tell."""
        self._outages.failed(error)
        self._reconciler.distrust()

    def _forgotten_by_redis(self) -> None:
        self._outages.began_anew()
        self._reconciler.distrust()
        self._all_back()

    def _all_back(self) -> None:
        """Nobody could be heard until now, so nobody is late for it, and none could begin or end anything."""
        self._all_back_at = self._dispatcher.clock()
        self._failure_detector.forget_silence()
        self._forgotten.begin_anew()

    def _set_pace(self, nodes: int) -> None:
        settings = self._dispatcher.settings
        self._liveness.set_pace(
            report_interval.report_period(
                nodes, least_seconds=settings.report_period_seconds, lease_seconds=settings.lease_seconds
            )
        )

    def sweep(self) -> None:
        """One pass. Raises UnavailableError when SQL or Redis cannot be reached."""
        dispatcher = self._dispatcher
        if self._broker_change.look():
            # The newest of what the one before knew may never have got there.
            self._forgotten_by_redis()
        is_full = self._memory_guard.look().is_full
        said = self._outputs_left.look()
        # Before SQL is read: a node that registers meanwhile is not taken for one that left.
        known = dispatcher.registry.node_ids()
        nodes = dispatcher.database.read(node_store.roll_call)
        ids = [node.id for node in nodes]
        live: dict[str, list[LiveAttempt]] = defaultdict(list)
        for row in dispatcher.database.read(task_store.live_attempts):
            live[row.node_id].append(row)
        self._outputs_left.end(said, live)
        signs = list(self._liveness.signs(ids))
        now = dispatcher.steady()
        self._listen(is_full=is_full)
        self._retries.look()
        self._keep_lead()
        self._reconciler.restore(known, ids, live, signs)
        if not live and not self._retries.anybody and isinstance(dispatcher.clock, PoolClock):
            dispatcher.clock.settle()
        self._set_pace(len(ids))
        kinds = {node.id: node.kind for node in nodes}
        expected = [ExpectedNode(node.id, node.registered_at, node.heard_at) for node in nodes]
        late = self._failure_detector.late_nodes(expected, [sign.age_seconds for sign in signs], now)
        self._keep_lead()
        reports = self._end_lost(live, late, kinds)
        self._presence.look(ids, signs, late, {node_id: len(rows) for node_id, rows in live.items()})
        if NodeKind.PUSHED in kinds.values():
            self._pushed.look(self._all_back_at)
        self._next_late_at = now + self._failure_detector.next_late(live.keys())
        self._stop_again(live)
        self._allocator.adjust(live, reports)
        self._broker_guard.look()
        self._comparisons.settle()
        self._storage.settle()
        self._credit_drift.look()
        tell_again(dispatcher, self._placement_loop)
        self._jobs.look()
        self._teller.look()
        self._prober.look()

    def _listen(self, *, is_full: bool) -> None:
        """SQL and Redis have answered. Without a gateway no node that Redis has forgotten can come back, none
        that does not reach Redis is heard, and nobody could begin what would be given away. To a full Redis
        agents of before ReportAgent cannot report."""
        if not self._liveness.gateway_serves():
            self._outages.in_trouble(OutageCause.NO_GATEWAY)
            self._all_back()
        elif is_full:
            self._outages.in_trouble(OutageCause.FULL)
            self._all_back()
        elif self._outages.worked():
            self._reconciler.distrust()
            self._all_back()

    def _end_lost(
        self, live: Live, late: dict[str, float], kinds: dict[str, NodeKind]
    ) -> dict[str, NodeReport | None]:
        """Returns the reports of those that were asked."""
        dispatcher = self._dispatcher
        late_seconds = dispatcher.settings.node_late_seconds
        held = self._brake.held(late, live.keys())
        self._forgotten.keep_only(ids_of(live))
        questioned = self._questioned.take([node_id for node_id in live if node_id not in late])
        reports = dispatcher.registry.reports(questioned)
        for node_id, rows in live.items():
            if node_id in kinds and node_id in late and node_id not in held:
                self._presence.lost(node_id, len(rows))
            for row in rows:
                if node_id not in kinds:
                    self._keep_lead()
                    lose(dispatcher, row, because(ReasonCode.NODE_LEFT, node=node_id))
                elif node_id in reports:
                    self._end_forgotten(row, kinds[node_id], reports[node_id])
                elif node_id in late and node_id not in held:
                    self._lose(row, because(ReasonCode.NODE_LATE, node=node_id, seconds=late_seconds))
        return reports

    def _lose(self, row: LiveAttempt, reason: Reason) -> None:
        self._keep_lead()
        blameless = self._outages.explains(row) or self._failure_detector.is_doubted(row.node_id)
        lose(self._dispatcher, row, reason, blameless=blameless)

    def _end_forgotten(self, row: LiveAttempt, kind: NodeKind, report: NodeReport | None) -> None:
        """One that its living node never began, does not speak of, or does not end when it must."""
        if kind == NodeKind.PUSHED:
            return  # what such a node runs is not in its report; PushedAttempts has its rules
        reason = self._forgotten.why_lost(row, report)
        if reason is not None:
            self._lose(row, reason)
        elif row.started_at is not None:
            self._overtime.look(row, self._dispatcher.clock(), self._all_back_at)

    def _stop_again(self, live: dict[str, list[LiveAttempt]]) -> None:
        stops = [(row.node_id, row.id) for rows in live.values() for row in rows if row.stop_requested]
        self._dispatcher.registry.mark_stops(stops)
