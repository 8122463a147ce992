"""Where waiting tasks and the fleet come together: one thread that places, fed by hints and events.

A hint only says that a task may wait; SQL says whether it does. Every task that is known to wait is in
the wait queue of `domain.scheduling.planner`, so who is next does not depend on the order of messages.
Reserve in Redis, then QUEUED -> PLACED in SQL, then the hint to the node. A crash after the first step
leaves a reservation that the sweep takes back; after the second, the node reads its assignment from its key.
What is in the wait queue is derived from SQL again after a restart: the sweep tells of every task that waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from dispatcher.context import Dispatcher
from dispatcher.placing.aside import Aside
from dispatcher.placing.checker_choice import drawn
from dispatcher.placing.fleet_mirror import FleetMirror
from dispatcher.placing.job_windows import JobWindows
from dispatcher.placing.owner_limits import OwnerLimits
from dispatcher.placing.reserve import PlacementRound, reserve_and_place
from dispatcher.placing.wait_reasons import WaitReasonWriter
from nodepool.domain import ids
from nodepool.domain.errors import NodePoolError
from nodepool.domain.scheduling.fair_share import EXPECTED_MINUTES, cost_per_minute
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.planner import Planner
from nodepool.domain.scheduling.request import request_of, waiting_task
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask, WaitQueue
from nodepool.domain.tasks.states import TaskKind
from nodepool.domain.trust.replication import MAX_REPLICAS
from nodepool.domain.trust.tiers import Tier
from nodepool.metrics import catalogue
from nodepool.stores.redis.hint_queues import HintQueues
from nodepool.stores.sql import placements as placing, replicas as replica_store

log = logging.getLogger(__name__)

# Decisions of one round: large enough that the round trips are shared by many, small enough that a task
# that comes now is not held up.
_ROUND = 500
_MAX_HINTS = 100_000
_LOOK_SECONDS = 1.0
# A look at the whole fleet may take this share of the thread's time to compute, and this one to wait for a
# broker that is far away; for whose sake nothing is seen later than this.
_LOOK_SHARE = 0.05
_LOOK_WAIT_SHARE = 0.25
_LOOK_WAIT_SECONDS = 2.5
_LOOK_PART_SECONDS = 0.002
_CHECK_QUEUE_SECONDS = 30.0
_USAGE_SECONDS = 2.0
_PAUSE_SECONDS = 0.5
_MOST_SERVED = 1e15


@dataclass(slots=True)
class LookCost:
    """What a look at the whole fleet has cost its thread: computing, and that with waiting for Redis."""

    computed_seconds: float = 0.0
    seconds: float = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        computed, began = time.thread_time(), time.monotonic()
        try:
            yield
        finally:
            self.computed_seconds += time.thread_time() - computed
            self.seconds += time.monotonic() - began

    def pause_seconds(self) -> float:
        """Until the next one. A large fleet is looked at less often; a far broker hardly puts it off."""
        waited = min((self.seconds - self.computed_seconds) / _LOOK_WAIT_SHARE, _LOOK_WAIT_SECONDS)
        return max(_LOOK_SECONDS, self.computed_seconds / _LOOK_SHARE, waited)


class PlacementLoop:
    """`hint` and `node_changed` from any thread; `work` from one at a time, which `start` makes."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        settings = dispatcher.settings
        self._dispatcher = dispatcher
        ageing = Ageing(
            settings.tier_ageing_seconds, settings.priority_ageing_seconds, settings.region_patience_seconds
        )
        fleet = Fleet()
        fleet.allow_pushed, fleet.least_owners = settings.push_to_nodes, settings.check_owners_least
        self._served: dict[int, float] = {}
        self._last: set[int] = set()
        self._own_only: frozenset[int] = frozenset()
        self._message_bounds: tuple[int, ...] = ()
        self._owner_limits, self._windows = OwnerLimits(dispatcher), JobWindows(dispatcher)
        self.planner = Planner(
            fleet,
            ageing,
            served=self._served_of,
            charge=self._serve,
            allows=self._owner_limits.allows,
            affords=self._owner_limits.affords,
        )
        self._fleet_mirror = FleetMirror(
            dispatcher.registry, dispatcher.liveness, self.planner, settings.node_late_seconds
        )
        self._reasons = WaitReasonWriter(dispatcher)
        self._backlog = HintQueues(dispatcher.redis)
        self._aside = Aside()
        self._something = threading.Condition()
        self._hints: dict[str, None] = {}
        self._changed: set[str] = set()
        self._owners: set[int] = set()
        self._stopped = self._distrusted = False
        self._look_at = self._usage_at = self._check_queue_at = float("-inf")
        self._looking: Iterator[None] | None = None
        self._look_cost = LookCost()
        self._turned_at = self._worked_at = time.monotonic()
        self._is_waiting = True
        self._thread = threading.Thread(target=self._run, name="placement loop", daemon=True)

    # -- what others say -----------------------------------------------------------------------------
    def hint(self, *task_ids: str) -> None:
        """These tasks may wait for a node."""
        with self._something:
            if len(self._hints) < _MAX_HINTS:  # the sweep tells of the others again
                self._hints.update(dict.fromkeys(task_ids))
            self._something.notify()

    def node_changed(self, node_id: str) -> None:
        with self._something:
            self._changed.add(node_id)
            self._something.notify()

    def owner_changed(self, owner_id: int) -> None:
        """The user's credit score opens another tier."""
        with self._something:
            self._owners.add(owner_id)
            self._something.notify()

    def look_again(self) -> None:
        """Events may have been lost: read the whole fleet anew, its facts too."""
        with self._something:
            self._look_at = float("-inf")
            self._distrusted = True
            self._something.notify()

    def is_known(self, task_id: str) -> bool:
        """Whether the task is in the wait queue, as far as another thread can tell."""
        return task_id in self.planner.queue

    def idle_seconds(self) -> float:
        """Since everything that could be placed was; it grows while SQL or Redis is away."""
        return time.monotonic() - self._worked_at

    def stuck_seconds(self) -> float:
        """Since the thread last did anything, though there is something to do."""
        return 0.0 if self._is_waiting else time.monotonic() - self._turned_at

    def start(self) -> None:
        self._aside.start()
        self._thread.start()

    def stop(self) -> None:
        with self._something:
            self._stopped = True
            self._something.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        self._aside.stop()

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        while self._wait():
            try:
                self._look_on()
                self.work()
                self._take_backlog()
                self._worked_at = time.monotonic()
            except NodePoolError as error:
                log.warning("placing waits: %s", error)
                self._pause()
            except Exception:
                log.exception("placing failed; it goes on")
                self._pause()

    def _wait(self) -> bool:
        with self._something:
            timeout = 0.0 if self._looking else max(0.0, self._look_at - time.monotonic())
            self._is_waiting = True
            self._something.wait_for(
                lambda: self._stopped or self._hints or self._changed or self._owners, timeout
            )
            self._turned_at, self._is_waiting = time.monotonic(), False
            return not self._stopped

    def _look_on(self) -> None:
        """A part of the look at the whole fleet, when it is time for one: a task that comes meanwhile does
        not wait for all of it. The first look, and one that was asked for, are made whole by `work`."""
        began = time.monotonic()
        if self._looking is None and float("-inf") < self._look_at <= began:
            self._looking, self._look_cost = self._fleet_mirror.look(self._dispatcher.clock()), LookCost()
            self._look_at = float("inf")
        if self._looking is None or self._look_at == float("-inf"):
            return
        ended = True
        with self._look_cost.counted():
            for _ in self._looking:
                if time.monotonic() - began >= _LOOK_PART_SECONDS:
                    ended = False
                    break
        if ended:
            self._looked(self._look_cost)

    def _looked(self, cost: LookCost) -> None:
        self._looking = None
        self._look_at = time.monotonic() + cost.pause_seconds()

    def _take_backlog(self) -> None:
        """Where hints come faster than they are taken one by one, the next round has many of them."""
        if self._hinted:
            self.hint(*self._backlog.take(_ROUND))

    def _pause(self) -> None:
        """What was under way is read again: what of it was done is not known."""
        with self._something:
            self._looking, self._look_at = None, float("-inf")
            self._something.wait_for(lambda: self._stopped, _PAUSE_SECONDS)

    def work(self) -> int:
        """Everything that can be placed now; how many were. Raises UnavailableError."""
        with self._something:
            hints, self._hints = list(self._hints), {}
            self._hinted = bool(hints)
            changed, self._changed = self._changed, set()
            owners, self._owners = self._owners, set()
            if self._distrusted:
                self._distrusted = False
                changed |= self.planner.fleet.row_of.keys()
        try:
            self._take_in(hints, changed, owners)
            placed = self._place()
        except BaseException:
            with self._something:
                self._hints.update(dict.fromkeys(hints))
                self._changed |= changed
                self._owners |= owners
            raise
        self._reasons.write_reasons(self.planner)
        self._owner_limits.write_reasons(self.planner.queue)
        return placed

    def _take_in(self, hints: list[str], changed: set[str], owners: set[int]) -> None:
        now, monotonic = self._dispatcher.clock(), time.monotonic()
        if monotonic >= self._look_at:
            cost = LookCost()
            with cost.counted():
                self._fleet_mirror.look_around(now)
            self._looked(cost)
        if changed:
            self._fleet_mirror.read(changed, now)
        if monotonic >= self._check_queue_at:
            self._check_queue_at = monotonic + _CHECK_QUEUE_SECONDS
            self._check_queue()
        queue = self.planner.queue
        # Nodes for their owner alone came or went: what is theirs is told apart from now on, or no more.
        own, self._own_only = self._own_only, frozenset(self.planner.fleet.own_only)
        owners = owners | (own ^ self._own_only)
        if self._message_bounds != self.planner.fleet.message_bounds:
            self._message_bounds = self.planner.fleet.message_bounds
            queue.sort_by_size(self.planner.fleet.too_small_for, now)
        again = [task.task_id for owner_id in owners for task in queue.of_owner(owner_id)]
        self._add([task_id for task_id in hints if task_id not in queue] + again, now)
        self._add(self._windows.more(queue), now)
        self._owner_limits.look(queue, now, ended=bool(changed))
        if monotonic >= self._usage_at:
            self._usage_at = monotonic + _USAGE_SECONDS
            self._served = self._dispatcher.usage.of(self.planner.queue.owners(), now)

    def _add(self, task_ids: list[str], now: float) -> None:
        if not task_ids:
            return
        dispatcher, settings = self._dispatcher, self._dispatcher.settings
        rows, failed, refused, not_owners = dispatcher.database.read(
            lambda c: (
                found := placing.waiting(c, task_ids),
                placing.failed_nodes(c, tried := [row.id for row in found if row.attempt_number]),
                placing.refusing_nodes(c, tried, now),
                replica_store.not_owners(c, [row.id for row in found]),
            )
        )
        strangers = {row.owner_id for row in rows} - self._served.keys()
        self._served |= dispatcher.usage.of(strangers, now)
        self._owner_limits.add_tasks(rows)
        self._windows.heard(rows)
        self._last |= {row.owner_id for row in rows if row.kind == TaskKind.PROBE}
        nobody: frozenset[int] = frozenset()
        waiting = [
            waiting_task(
                row,
                request_of(
                    row,
                    failed.get(row.id, frozenset()),
                    not_owners.get(row.id, nobody),
                    settings.default_image,
                    owner_id=self.planner.fleet.owner_that_counts(row.owner_id),
                    refused_by=refused.get(row.id, frozenset()),
                    over_bytes=self.planner.fleet.too_small_for(row.package_bytes),
                ),
                settings.default_task_memory_mb,
            )
            for row in rows
        ]
        for task in drawn(dispatcher, self.planner.fleet, waiting):
            self.planner.queue.add(task, now)

    def _check_queue(self) -> None:
        """Tasks that were stopped, or placed by another dispatcher, leave the wait queue."""
        queue = self.planner.queue
        waiting = queue.task_ids()
        rows = self._dispatcher.database.read(lambda c: placing.waiting(c, waiting))
        still = {row.id: Tier(row.tier) for row in rows}
        for task_id in set(waiting) - still.keys():
            queue.discard(task_id)
        # Whose nodes a run may be on changes with its task's other runs; which tier is open, with credit;
        # which nodes cannot have it, with the nodes.
        stale = [
            task_id
            for task_id, tier in still.items()
            if ids.parent_of(task_id) or _may_differ(queue, task_id, tier)
        ]
        self._add(stale, self._dispatcher.clock())

    def _place(self) -> int:
        placed = 0
        tries: Counter[str] = Counter()
        while planned := self.planner.plan(self._dispatcher.clock(), _ROUND):
            with catalogue.placement_seconds.time():
                this_round = reserve_and_place(
                    self._dispatcher, self.planner, self._fleet_mirror, self._aside, planned
                )
            _count_misses(this_round)
            self._turned_at = time.monotonic()
            for it in (*this_round.refused, *this_round.moved, *this_round.unpaid):
                self._serve(it.task, -1.0)
            self._owner_limits.not_covered(this_round.unpaid)
            charges: defaultdict[int, float] = defaultdict(float)
            for it in this_round.placed:
                charges[it.task.owner_id] += units_of(it.task)
            self._aside.do(partial(self._dispatcher.usage.add, charges, self._dispatcher.clock()))
            placed += len(this_round.placed)
            self._try_apart([it.task.task_id for it in this_round.moved], tries)
            if len(this_round.refused) == len(planned):
                break  # the picture was wrong everywhere: after the next look it is better
            self._add(self._windows.more(self.planner.queue), self._dispatcher.clock())
        return placed

    def _try_apart(self, task_ids: list[str], tries: Counter[str]) -> None:
        """Of several runs of one task that were planned on nodes of one owner only the first is placed."""
        again = [task_id for task_id in task_ids if ids.parent_of(task_id) and tries[task_id] < MAX_REPLICAS]
        tries.update(again)
        self._add(again, self._dispatcher.clock())

    def _served_of(self, user_id: int) -> float:
        """The pool's own tasks come after users'."""
        return _MOST_SERVED if user_id in self._last else self._served.get(user_id, 0.0)

    def _serve(self, task: WaitingTask, times: float = 1.0) -> None:
        """Known here at once, so that the next decision sees it."""
        self._served[task.owner_id] = self._served.get(task.owner_id, 0.0) + times * units_of(task)
        self._owner_limits.count_placed(task, int(times))


def _count_misses(this_round: PlacementRound) -> None:
    misses = {"no_room": this_round.refused, "moved": this_round.moved, "no_money": this_round.unpaid}
    for cause, missed in misses.items():
        if missed:
            catalogue.placement_misses.labels(cause).inc(len(missed))


def _may_differ(queue: WaitQueue, task_id: str, tier: Tier) -> bool:
    task = queue.find(task_id)
    if task is None:
        return False
    return task.requirements.tier is not tier or bool(task.requirements.refused_by)


def units_of(task: WaitingTask) -> float:
    """What a placement is charged; the rest follows at the task's end."""
    return cost_per_minute(task.requirements.claim) * EXPECTED_MINUTES
