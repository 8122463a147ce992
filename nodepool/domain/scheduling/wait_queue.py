"""Who waits, and who is next: trust tiers with ageing, fair share between users, priority, age.

Pure: the time is passed in, in Unix seconds. Tasks with equal requirements are one group, since what one of
them cannot have none can; a group that found no node is left alone until something has changed.

The order, first what weighs most:
1. the tier of the task's queue, high before normal before low; every `tier_seconds` of waiting count
   as one tier, so that a low task is served at most that time after a normal one of the same age;
2. fair share: whoever has used least lately, in steps of one default task, so that users about
   equally well served are equal here;
3. priority, 9 first, every `priority_seconds` of waiting counting as one step of it; then age.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import RANK

# Keys hold a tier's level as of the last look at the clock; older than this, they are made anew.
_REFRESH_SECONDS = 10.0

# Smaller comes first. A lane's: level of the tier, and what does not change with time.
_LaneKey = tuple[int, float]
# The owner, and what a task of it holds when it is placed.
_LaneName = tuple[int, int]
# An owner's: level, served, what does not change, owner.
_OwnerKey = tuple[int, int, float, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTask:
    """A task without a node. `queued_at` is when it last began to wait, `created_at` when it came."""

    task_id: str
    owner_id: int
    requirements: Requirements
    priority: int
    created_at: float
    queued_at: float
    attempt_number: int = 0
    location_mode: LocationMode = LocationMode.STRICT
    package_bytes: int = 0
    limited: bool = True  # it counts among what its owner may have running
    job_index: int = 0  # of equal ones of an array the lower goes first
    to_hold: int = 0  # CPT that are set aside when it is placed; 0: they are already, or there are none


@dataclass(frozen=True, slots=True)
class Ageing:
    tier_seconds: float
    priority_seconds: float
    region_patience_seconds: float


@dataclass(slots=True, eq=False)
class WaitGroup:
    """Tasks with one set of requirements, by their owners."""

    requirements: Requirements
    lanes: dict[_LaneName, _Lane] = field(default_factory=dict)
    blocked: bool = False

    @property
    def waiting(self) -> int:
        """How many tasks."""
        return sum(lane.waiting for lane in self.lanes.values())


@dataclass(slots=True, eq=False)
class _Lane:
    """One owner's tasks with equal requirements that hold the same when they are placed. Its place in its
    owner's order is the entry with the key."""

    owner: _Owner
    group: WaitGroup
    to_hold: int = 0
    unpaid: bool = False  # its owner has less than that
    tasks: list[tuple[float, int, str]] = field(default_factory=list)  # a heap
    waiting: int = 0
    key: _LaneKey | None = None

    @property
    def blocked(self) -> bool:
        return self.unpaid or self.group.blocked

    @property
    def name(self) -> _LaneName:
        return self.owner.owner_id, self.to_hold


@dataclass(slots=True, eq=False)
class _Owner:
    """One user's lanes in order: how much they were served decides between users, and not within."""

    owner_id: int
    order: list[tuple[_LaneKey, int, _Lane]] = field(default_factory=list)  # a heap
    lanes: int = 0
    key: _OwnerKey | None = None


class WaitQueue:
    """Not thread-safe. `served` tells how many default tasks' worth a user has used lately.

    Heaps may hold entries that are out of date: those are dropped when they come up, so each costs no more
    than once. When a user was served, only their own place changes.
    """

    def __init__(self, ageing: Ageing, served: Callable[[int], float]) -> None:
        self._ageing = ageing
        self._served = served
        self._tasks: dict[str, tuple[WaitingTask, _Lane]] = {}
        self._groups: dict[Requirements, WaitGroup] = {}
        self._owners: dict[int, _Owner] = {}
        self.held: set[int] = set()
        self._unpaid: dict[int, list[_Lane]] = {}
        self._order: list[tuple[_OwnerKey, int, _Owner]] = []
        self._count = 0
        self._patient: list[tuple[float, str]] = []
        self._refreshed_at = float("-inf")

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._tasks

    def task_ids(self) -> list[str]:
        return list(self._tasks)

    def owners(self) -> set[int]:
        return set(self._owners)

    def find(self, task_id: str) -> WaitingTask | None:
        found = self._tasks.get(task_id)
        return found[0] if found is not None else None

    def of_owner(self, owner_id: int) -> list[WaitingTask]:
        return [task for task, _ in self._tasks.values() if task.owner_id == owner_id]

    def sort_by_size(self, over_bytes: Callable[[int], int], now: float) -> None:
        """`over_bytes` tells of a package's size what of it counts, which has changed."""
        moved = [
            replace(task, requirements=replace(task.requirements, over_bytes=counts))
            for task, _ in self._tasks.values()
            if (counts := over_bytes(task.package_bytes)) != task.requirements.over_bytes
        ]
        for task in moved:
            self.add(task, now)

    def hold(self, owner_id: int) -> None:
        """None of this user's tasks comes up until they are let go: they have as much running as they may."""
        self.held.add(owner_id)
        if (owner := self._owners.get(owner_id)) is not None:
            owner.key = None

    def let_go(self, owner_id: int, now: float) -> None:
        self.held.discard(owner_id)
        if (owner := self._owners.get(owner_id)) is not None:
            self._place(owner, now)

    def wait_for_money(self, task: WaitingTask, now: float) -> None:
        """None of its owner's tasks that hold as much as this one, and ask for the same, comes up until there
        is money for one."""
        found = self._tasks.get(task.task_id)
        if found is not None and not found[1].unpaid:
            lane = found[1]
            lane.unpaid = True
            self._unpaid.setdefault(task.owner_id, []).append(lane)
            self._place(lane.owner, now)

    def money_came(self, owner_id: int, balance: int, now: float) -> None:
        """What the user can spend: lanes that it covers come up again."""
        lanes = self._unpaid.pop(owner_id, [])
        if still := [lane for lane in lanes if lane.waiting and lane.to_hold > balance]:
            self._unpaid[owner_id] = still
        for lane in lanes:
            if lane.waiting and lane.to_hold <= balance:
                lane.unpaid = False
                self._enter(lane, now)

    def without_money(self) -> list[int]:
        """Users of whose tasks some wait for it."""
        return list(self._unpaid)

    def unpaid_of(self, owner_id: int) -> dict[int, list[str]]:
        """The user's tasks that wait for money, by what each holds."""
        found: dict[int, list[str]] = {}
        for lane in self._unpaid.get(owner_id, ()):
            found.setdefault(lane.to_hold, []).extend(self._ids_of(lane))
        return found

    def _ids_of(self, lane: _Lane) -> list[str]:
        ids = dict.fromkeys(task_id for *_, task_id in lane.tasks)
        return [it for it in ids if it in self._tasks and self._tasks[it][1] is lane]

    def is_kept_back(self, task: WaitingTask) -> bool:
        """For its owner's sake, whatever the nodes have room for."""
        found = self._tasks.get(task.task_id)
        return task.owner_id in self.held or (found is not None and found[1].unpaid)

    def groups(self) -> list[WaitGroup]:
        """Those with tasks in them."""
        return list(self._groups.values())

    def group_of(self, requirements: Requirements) -> WaitGroup | None:
        return self._groups.get(requirements)

    def tasks_of(self, group: WaitGroup) -> list[WaitingTask]:
        ids = dict.fromkeys(task_id for lane in group.lanes.values() for *_, task_id in lane.tasks)
        found = (self._tasks[task_id] for task_id in ids if task_id in self._tasks)
        return [task for task, lane in found if lane.group is group]

    def add(self, task: WaitingTask, now: float) -> None:
        """Let it wait. One that is here already is replaced."""
        self.discard(task.task_id)
        patience = self._ageing.region_patience_seconds
        if task.location_mode is LocationMode.PREFER and not task.requirements.relaxed:
            if now - task.queued_at >= patience:
                task = replace(task, requirements=replace(task.requirements, relaxed=True))
            else:
                heapq.heappush(self._patient, (task.queued_at + patience, task.task_id))
        lane = self._lane(task)
        lane.waiting += 1
        self._tasks[task.task_id] = (task, lane)
        heapq.heappush(lane.tasks, (self._static(task), task.job_index, task.task_id))
        if lane.tasks[0][2] == task.task_id:
            self._enter(lane, now)

    def _lane(self, task: WaitingTask) -> _Lane:
        group = self._groups.get(task.requirements)
        if group is None:
            group = self._groups[task.requirements] = WaitGroup(task.requirements)
        name = (task.owner_id, task.to_hold)
        lane = group.lanes.get(name)
        if lane is None:
            owner = self._owners.get(task.owner_id)
            if owner is None:
                owner = self._owners[task.owner_id] = _Owner(task.owner_id)
            owner.lanes += 1
            lane = group.lanes[name] = _Lane(owner, group, task.to_hold)
        return lane

    def discard(self, task_id: str) -> None:
        """Out of the wait queue, wherever in it. What the heaps still hold of it is passed over."""
        found = self._tasks.pop(task_id, None)
        if found is None:
            return
        lane = found[1]
        lane.waiting -= 1
        if lane.waiting:
            return
        lane.key, lane.tasks = None, []
        owner, group = lane.owner, lane.group
        del group.lanes[lane.name]
        if lane.unpaid:
            self._forget_unpaid(lane)
        if not group.lanes:
            del self._groups[group.requirements]
        owner.lanes -= 1
        if not owner.lanes:
            owner.key, owner.order = None, []
            del self._owners[owner.owner_id]

    def _forget_unpaid(self, lane: _Lane) -> None:
        lanes = self._unpaid.get(lane.owner.owner_id, [])
        if lane in lanes:
            lanes.remove(lane)
        if not lanes:
            self._unpaid.pop(lane.owner.owner_id, None)

    def head(self, now: float) -> tuple[WaitingTask, WaitGroup] | None:
        """Who is next, of the groups that are not blocked."""
        self._mature(now)
        if now - self._refreshed_at > _REFRESH_SECONDS:
            self._refresh(now)
        while self._order:
            key, _, owner = self._order[0]
            if key == owner.key:
                self._place(owner, now)
            if key == owner.key:
                lane = owner.order[0][2]
                return self._first(lane), lane.group
            if self._order[0][0] == key:
                heapq.heappop(self._order)
        return None

    def take(self, task: WaitingTask, now: float) -> None:
        """The task has a node. Call after its owner was charged for it."""
        found = self._tasks.get(task.task_id)
        self.discard(task.task_id)
        if found is not None and found[1].waiting:
            self._enter(found[1], now)
        elif (owner := self._owners.get(task.owner_id)) is not None:
            self._place(owner, now)

    def block(self, group: WaitGroup) -> None:
        """No node fits the group now."""
        group.blocked = True

    def unblock(self, group: WaitGroup, now: float) -> None:
        if group.blocked:
            group.blocked = False
            for lane in group.lanes.values():
                self._enter(lane, now)

    def unblock_all(self, now: float) -> None:
        for group in self.groups():
            self.unblock(group, now)

    # ------------------------------------------------------------------------------------------------
    def _static(self, task: WaitingTask) -> float:
        """Smaller comes first. Waiting counts as priority, which changes nothing of the order of two."""
        return task.created_at - task.priority * self._ageing.priority_seconds

    def _level(self, task: WaitingTask, now: float) -> int:
        waited = max(0.0, now - task.created_at)
        return max(0, RANK[task.requirements.tier] - int(waited / self._ageing.tier_seconds))

    def _first(self, lane: _Lane) -> WaitingTask:
        """Of a lane in which somebody waits."""
        while True:
            static, _, task_id = lane.tasks[0]
            found = self._tasks.get(task_id)
            if found is not None and found[1] is lane and self._static(found[0]) == static:
                return found[0]
            heapq.heappop(lane.tasks)

    def _enter(self, lane: _Lane, now: float) -> None:
        """Its place among its owner's lanes, by its first task, and its owner's among the owners."""
        if not lane.blocked:
            self._queue(lane, now)
            self._place(lane.owner, now)

    def _queue(self, lane: _Lane, now: float) -> None:
        first = self._first(lane)
        key = (self._level(first, now), self._static(first))
        if key != lane.key:
            lane.key = key
            self._count += 1
            heapq.heappush(lane.owner.order, (key, self._count, lane))

    def _place(self, owner: _Owner, now: float) -> None:
        """Their place among the owners, by the first of their lanes that are not blocked."""
        lane = None if owner.owner_id in self.held else self._best(owner, now)
        if lane is None or lane.key is None:
            owner.key = None
            return
        level, static = lane.key
        key = (level, int(self._served(owner.owner_id)), static, owner.owner_id)
        if key != owner.key:
            owner.key = key
            self._count += 1
            heapq.heappush(self._order, (key, self._count, owner))

    def _best(self, owner: _Owner, now: float) -> _Lane | None:
        order = owner.order
        while order:
            key, _, lane = order[0]
            valid = key == lane.key
            if valid and not lane.blocked and self._static(self._first(lane)) == key[1]:
                return lane
            heapq.heappop(order)
            if valid:
                lane.key = None
                if not lane.blocked:
                    self._queue(lane, now)  # its first task was discarded
        return None

    def _mature(self, now: float) -> None:
        """Those who only prefer their region, and have waited for it long enough."""
        while self._patient and self._patient[0][0] <= now:
            found = self._tasks.get(heapq.heappop(self._patient)[1])
            if found is not None and not found[0].requirements.relaxed:
                self.add(replace(found[0], requirements=replace(found[0].requirements, relaxed=True)), now)

    def _refresh(self, now: float) -> None:
        """Levels and served shares change with time: the heaps anew."""
        self._refreshed_at = now
        self._order = []
        for owner in self._owners.values():
            owner.order, owner.key = [], None
        for group in self._groups.values():
            for lane in group.lanes.values():
                lane.key = None
                if not lane.blocked:
                    self._queue(lane, now)
        for owner in self._owners.values():
            self._place(owner, now)
