"""The sweep: every so often, whatever messages were lost is derived again from SQL.

It brings Redis in line with SQL (a FLUSHALL loses nothing), ends attempts of nodes that are late,
and tells of tasks that wait. One dispatcher sweeps at a time; a lock with a TTL says which.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Collection

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.placing.reserve import lose
from dispatcher.sweep.broker_change import BrokerChange
from dispatcher.sweep.broker_connections import BrokerGuard
from dispatcher.sweep.credit_drift import CreditDrift
from dispatcher.sweep.failure_detector import BRAKE_PERIODS, ExpectedNode, FailureDetector
from dispatcher.sweep.housekeeping import Housekeeping
from dispatcher.sweep.left_outputs import LeftOutputs
from dispatcher.sweep.lost_hints import tell_again
from dispatcher.sweep.overdue_attempts import OverdueAttempts
from dispatcher.sweep.pending_votes import PendingVotes
from dispatcher.sweep.prober import Prober
from dispatcher.sweep.pushed_attempts import PushedAttempts
from dispatcher.sweep.reclaimer import Reclaimer
from dispatcher.sweep.reconciler import Live, Reconciler, RotatingSlices
from dispatcher.sweep.stored_files import StoredFiles
from nodepool.domain.errors import NodePoolError, UnavailableError
from nodepool.domain.nodes import report_interval
from nodepool.domain.nodes.node import NodeKind
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.metrics import catalogue
from nodepool.stores.redis import keys
from nodepool.stores.redis.liveness import Liveness
from nodepool.stores.redis.memory_guard import MemoryGuard
from nodepool.stores.redis.node_registry import NodeReport
from nodepool.stores.redis.sweep_lock import LockHolder, SweepLock
from nodepool.stores.redis.sweep_mark import SweepMarks
from nodepool.stores.sql import nodes as node_store, tasks as task_store
from nodepool.stores.sql.attempt_rows import LiveAttempt
from nodepool.stores.sql.node_rows import NodePresence

log = logging.getLogger(__name__)

_FORGOTTEN_PERIODS = 2
_QUESTIONED_WITHIN_PASSES = 5
_SHORTEST_PAUSE_SECONDS = 0.1
_JUST_LATE_SECONDS = 0.02
_SHOUT_SECONDS = 30.0
# The placement loop hangs when a round of it takes so long: what it waits for has bounds far below.
_PLACING_STUCK_SECONDS = 60.0


class Sweeper:
    """A thread beside the worker, so that a backlog of hints cannot hold the sweep up."""

    def __init__(self, dispatcher: Dispatcher, placement_loop: PlacementLoop) -> None:
        self._dispatcher = dispatcher
        self._placement_loop = placement_loop
        self._stopped = threading.Event()
        self._lock = SweepLock(dispatcher.redis)
        self._marks = SweepMarks(dispatcher.redis)
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
            dispatcher.redis, lambda: [node.id for node in dispatcher.database.read(node_store.roll_call)]
        )
        self._broker_guard = BrokerGuard(dispatcher.redis, dispatcher.settings.broker_connections_per_node)
        self._memory_guard = MemoryGuard(
            dispatcher.redis, dispatcher.lifecycle.outputs, dispatcher.settings.max_live_output_mb << 20
        )
        self._outputs_left = LeftOutputs(dispatcher)
        self._failure_detector = FailureDetector(now, dispatcher.settings.node_late_seconds)
        # Who is asked in a pass whether it still has its work.
        self._questioned = RotatingSlices(_QUESTIONED_WITHIN_PASSES)
        # Nobody can begin an attempt while no gateway serves.
        self._gateway_back_at = now
        self._next_late_at = float("inf")
        self._shouted_at = float("-inf")
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
            try:
                if self._mine(period):
                    self._sweep_and_say(period)
                else:
                    catalogue.sweeps.labels("another").inc()
            except NodePoolError as error:
                catalogue.sweeps.labels("failed").inc()
                self._distrust()
                log.warning("the sweep waits: %s", error)
            except Exception:
                catalogue.sweeps.labels("failed").inc()
                log.exception("the sweep failed; it goes on")
            self._is_waiting = True

    def _sweep_and_say(self, period_seconds: float) -> None:
        """What a pass leaves behind: gateways tell from it that a dispatcher works."""
        began = time.monotonic()
        self.sweep()
        seconds = time.monotonic() - began
        catalogue.sweeps.labels("done").inc()
        catalogue.sweep_seconds.observe(seconds)
        places = self._placement_loop.stuck_seconds() < _PLACING_STUCK_SECONDS
        self._marks.leave(period_seconds=period_seconds, pass_seconds=seconds, places=places)

    def _mine(self, period_seconds: float) -> bool:
        try:
            holder = self._lock.take(max(3 * period_seconds, 3.0))
        except UnavailableError as error:
            self._distrust()
            log.warning("the sweep waits for Redis: %s", error.__cause__)
            return False
        if holder is LockHolder.OURS_NOW:
            # What was heard while another one swept, or before Redis lost its keys, is unknown.
            self._distrust()
        return holder is not LockHolder.ANOTHER

    def _pause(self, period_seconds: float) -> float:
        """The period, or less where a node with work would be late before that."""
        until_late = self._next_late_at - self._dispatcher.clock() + _JUST_LATE_SECONDS
        return min(period_seconds, max(_SHORTEST_PAUSE_SECONDS, until_late))

    def _distrust(self) -> None:
        """Nobody can be heard while Redis is away, so nobody is late for it; and it may have forgotten."""
        self._failure_detector.forget_silence(self._dispatcher.clock())
        self._reconciler.distrust()

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
            self._distrust()
        if self._memory_guard.look().is_full:
            # Nobody can report then, so nobody is late for it.
            self._failure_detector.forget_silence(dispatcher.clock())
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
        now = dispatcher.clock()
        if not self._liveness.gateway_serves():
            self._gateway_back_at = now
        self._reconciler.restore(known, ids, live, signs)
        self._set_pace(len(ids))
        kinds = {node.id: node.kind for node in nodes}
        late = self._failure_detector.late_nodes([self._beat(node) for node in nodes], signs, now)
        reports = self._end_lost(live, late, kinds)
        if NodeKind.PUSHED in kinds.values():
            self._pushed.look(self._gateway_back_at)
        self._next_late_at = now + self._failure_detector.next_late(live.keys(), now)
        self._stop_again(live)
        self._allocator.adjust(live, reports)
        self._broker_guard.look()
        self._comparisons.settle()
        self._storage.settle()
        self._housekeeping.look()
        self._credit_drift.look()
        tell_again(dispatcher, self._placement_loop)
        self._prober.look()

    def _beat(self, node: NodePresence) -> ExpectedNode:
        """Nodes without an agent are heard through a gateway only: while none serves they are not late."""
        heard_since = self._gateway_back_at if node.kind == NodeKind.PUSHED else 0.0
        return ExpectedNode(node.id, max(node.registered_at, heard_since))

    def _end_lost(
        self, live: Live, late: dict[str, float], kinds: dict[str, NodeKind]
    ) -> dict[str, NodeReport | None]:
        """Returns the reports of those that were asked."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock()
        late_seconds = dispatcher.settings.node_late_seconds
        held = self._brake(late, live.keys(), now)
        questioned = self._questioned.take([node_id for node_id in live if node_id not in late])
        reports = dispatcher.registry.reports(questioned)
        for node_id, rows in live.items():
            for row in rows:
                if node_id not in kinds:
                    lose(dispatcher, row, because(ReasonCode.NODE_LEFT, node=node_id))
                elif node_id in reports:
                    self._end_forgotten(row, kinds[node_id], reports[node_id])
                elif node_id in late and node_id not in held:
                    lose(dispatcher, row, because(ReasonCode.NODE_LATE, node=node_id, seconds=late_seconds))
        return reports

    def _brake(self, late: dict[str, float], busy: Collection[str], now: float) -> frozenset[str]:
        """Late nodes whose work stays theirs for now."""
        held = self._failure_detector.braked(late, busy, now)
        if held and self._liveness.operator_released():
            log.warning("the operator says that %d silent nodes are really gone", len(held))
            return frozenset()
        if held and now - self._shouted_at >= _SHOUT_SECONDS:
            self._shouted_at = now
            log.error(
                "%d nodes with work vanished at once: that is more likely the pool's network or Redis than "
                "they; nothing of theirs is given away until some are back, for %g s at the most, or until "
                "an operator sets %s in Redis",
                len(held),
                BRAKE_PERIODS * self._dispatcher.settings.node_late_seconds,
                keys.RELEASE,
            )
        elif not held and self._shouted_at > float("-inf"):
            self._shouted_at = float("-inf")
            log.warning("the brake is off again")
        return held

    def _end_forgotten(self, row: LiveAttempt, kind: NodeKind, report: NodeReport | None) -> None:
        """One that its living node never began, does not speak of, or does not end when it must."""
        if kind == NodeKind.PUSHED:
            return  # what such a node runs is not in its report; PushedAttempts has its rules
        settings = self._dispatcher.settings
        now = self._dispatcher.clock()
        patience = _FORGOTTEN_PERIODS * settings.node_late_seconds
        since = row.started_at or row.created_at
        if row.started_at is None and now - max(row.created_at, self._gateway_back_at) > patience:
            lose(self._dispatcher, row, because(ReasonCode.NEVER_BEGUN, node=row.node_id))
        elif report is not None and row.id not in report.running and now - since > patience:
            lose(self._dispatcher, row, because(ReasonCode.NOT_LISTED, node=row.node_id))
        elif row.started_at is not None:
            self._overtime.look(row, now, self._gateway_back_at)

    def _stop_again(self, live: dict[str, list[LiveAttempt]]) -> None:
        stops = [(row.node_id, row.id) for rows in live.values() for row in rows if row.stop_requested]
        self._dispatcher.registry.mark_stops(stops)
