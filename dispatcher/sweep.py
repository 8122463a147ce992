"""The sweep: every so often, whatever messages were lost is derived again from SQL.

It brings Redis in line with SQL (a FLUSHALL loses nothing), ends attempts of nodes that are late,
and tells of tasks that wait. One dispatcher sweeps at a time; a lock with a TTL says which.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import defaultdict
from typing import Any

from sqlalchemy import Row

from dispatcher.context import Dispatcher
from dispatcher.place import lose, place_waiting
from nodepool.errors import NodePoolError
from nodepool.node import NodeView
from nodepool.queues import partition_queue
from nodepool.stores import keys, node_store, task_store
from nodepool.stores.registry import RegisteredNode, Report

log = logging.getLogger(__name__)

# Losing more of the fleet than this at once is more likely the pool's own trouble than theirs.
BRAKE_SHARE = 0.5
BRAKE_MIN_NODES = 5
_SECONDS_PER_MINUTE = 60
# What the agent takes to unpack, stop and upload beyond the run itself.
_OVERTIME_SECONDS = 300
_FORGOTTEN_PERIODS = 2
_MIN_HINT_AGE_SECONDS = 5.0
# Dispatchers that are behind are not told more often of the same.
_MAX_WAITING_HINTS = 1000


class Sweeper:
    """A thread beside the worker, so that a backlog of hints cannot hold the sweep up."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._stopped = threading.Event()
        self._token = secrets.token_hex(8)
        self._started_at = dispatcher.clock()
        self._redis_back_at = self._started_at
        # When each node was heard of, by this sweeper's own eyes: a report that is gone from Redis
        # (FLUSHALL, a restart without its data) does not mean that nobody wrote it.
        self._heard_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        period = self._dispatcher.settings.sweep_period_seconds
        while not self._stopped.wait(period):
            try:
                if self._mine(period):
                    self.sweep()
            except NodePoolError as error:
                # Nobody can be heard while Redis is away, so nobody is late for it.
                self._redis_back_at = self._dispatcher.clock()
                log.warning("the sweep waits: %s", error)
            except Exception:
                log.exception("the sweep failed; it goes on")

    def _mine(self, period_seconds: float) -> bool:
        client = self._dispatcher.redis
        ttl_ms = int(max(3 * period_seconds, 3.0) * 1000)
        try:
            if client.set(keys.SWEEPER, self._token, nx=True, px=ttl_ms):
                # What was heard while another one swept, or before Redis lost its keys, is unknown.
                self._redis_back_at = self._dispatcher.clock()
                return True
            if client.get(keys.SWEEPER) == self._token.encode():
                client.pexpire(keys.SWEEPER, ttl_ms)
                return True
        except OSError:
            self._redis_back_at = self._dispatcher.clock()
        except Exception as error:  # noqa: BLE001 - redis-py's errors have no common root with OSError
            self._redis_back_at = self._dispatcher.clock()
            log.warning("the sweep waits for Redis: %s", error)
        return False

    def sweep(self) -> None:
        """One pass. Raises UnavailableError when SQL or Redis cannot be reached."""
        dispatcher = self._dispatcher
        # Before SQL is read: a node that registers meanwhile is not taken for one that left.
        known = dispatcher.registry.node_ids()
        nodes = dispatcher.database.read(node_store.active)
        live: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in dispatcher.database.read(task_store.live_attempts):
            live[row.node_id].append(row)
        self._restore(known, nodes, live)
        reports = dispatcher.registry.reports(node.id for node in nodes)
        self._end_lost(nodes, live, reports)
        self._stop_again(live)
        self._tell_again()

    def _restore(self, known: set[str], nodes: Any, live: dict[str, list[Row[Any]]]) -> None:
        """Redis as SQL has it: nodes, reservations, assignments."""
        dispatcher = self._dispatcher
        settings = dispatcher.settings
        views = {view.node_id: view for view in dispatcher.registry.snapshot(settings.node_late_seconds)}
        for node in nodes:
            expected = {row.id for row in live[node.id]}
            if (
                node.id not in known
                or not _same_facts(views.get(node.id), dispatcher.lifecycle.facts_of(node))
                or dispatcher.registry.assigned_ids(node.id) != expected
            ):
                dispatcher.lifecycle.sync_node(node.id)
        for gone in known - {node.id for node in nodes}:
            dispatcher.registry.remove_node(gone)

    def _end_lost(
        self, nodes: Any, live: dict[str, list[Row[Any]]], reports: dict[str, Report | None]
    ) -> None:
        late = self._late(nodes, reports)
        busy_late = [node for node in nodes if node.id in late and live[node.id]]
        if len(busy_late) >= BRAKE_MIN_NODES and len(late) > BRAKE_SHARE * len(nodes):
            log.error(
                "%d of %d nodes vanished at once: that is more likely the pool's network or Redis than they; "
                "nothing is given away until some are back",
                len(late),
                len(nodes),
            )
            return
        late_seconds = self._dispatcher.settings.node_late_seconds
        for node in busy_late:
            for row in live[node.id]:
                lose(self._dispatcher, row, f"node {node.id} was not heard of for {late_seconds:g} s")
        active = {node.id for node in nodes}
        for node_id, rows in live.items():
            for row in rows:
                if node_id not in active:
                    lose(self._dispatcher, row, f"node {node_id} left the pool")
                elif node_id not in late:
                    self._end_forgotten(row, reports.get(node_id))

    def _late(self, nodes: Any, reports: dict[str, Report | None]) -> set[str]:
        dispatcher = self._dispatcher
        late_seconds, now = dispatcher.settings.node_late_seconds, dispatcher.clock()
        late, heard = set(), {}
        for node in nodes:
            # After a start or a broken Redis everybody gets the full time to be heard again.
            last = max(self._heard_at.get(node.id, 0.0), node.registered_at, self._redis_back_at)
            report = reports.get(node.id)
            if report is not None and report.age_seconds <= late_seconds:
                last = max(last, now - report.age_seconds)
            heard[node.id] = last
            if now - last > late_seconds:
                late.add(node.id)
        self._heard_at = heard
        return late

    def _end_forgotten(self, row: Row[Any], report: Report | None) -> None:
        """An attempt that its living node does not speak of, or that outlived its longest run."""
        settings = self._dispatcher.settings
        now = self._dispatcher.clock()
        patience = _FORGOTTEN_PERIODS * settings.node_late_seconds
        since = row.started_at or row.created_at
        if report is not None and row.id not in report.running and now - since > patience:
            lose(self._dispatcher, row, f"node {row.node_id} does not have it")
        elif now - since > row.max_minutes * _SECONDS_PER_MINUTE + _OVERTIME_SECONDS:
            lose(self._dispatcher, row, f"node {row.node_id} did not end it in time")

    def _stop_again(self, live: dict[str, list[Row[Any]]]) -> None:
        for rows in live.values():
            for row in rows:
                if row.stop_requested:
                    self._dispatcher.registry.mark_stop(row.node_id, row.id)

    def _tell_again(self) -> None:
        """Waiting tasks are tried here; those whose hint may be lost are marked as told again."""
        dispatcher = self._dispatcher
        now = dispatcher.clock()
        if not dispatcher.database.read(lambda connection: task_store.queued(connection, 1)):
            dispatcher.waiting.replace(set())
            return
        place_waiting(dispatcher)
        before = now - max(_MIN_HINT_AGE_SECONDS, 2 * dispatcher.settings.sweep_period_seconds)
        stale = dispatcher.database.read(
            lambda connection: task_store.queued(connection, 500, hinted_before=before)
        )
        room = {
            queue: _MAX_WAITING_HINTS - dispatcher.waiting.hints(queue)
            for queue in {partition_queue(row.tier, row.region) for row in stale}
        }
        for row in stale:
            queue = partition_queue(row.tier, row.region)
            room[queue] -= 1
            if room[queue] >= 0:
                dispatcher.publisher.place(row.id, row.tier, row.region)
        if stale:
            ids = [row.id for row in stale]
            dispatcher.database.write(lambda connection: task_store.mark_hinted(connection, ids, now))


def _same_facts(view: NodeView | None, node: RegisteredNode) -> bool:
    return view is not None and (
        (view.tier, view.region, view.gpu_name, view.draining, view.capacity, view.quality)
        == (node.tier, node.region, node.gpu_name, node.draining, node.capacity, node.quality)
    )
