"""Who waits, and who is next: trust tiers with ageing, fair share between users, priority, age.

Pure: the time is passed in, in Unix seconds. Tasks with equal wishes are one group, since what one of
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

from nodepool.placement import Wish
from nodepool.task import MAX_PRIORITY, LocationMode
from nodepool.trust import RANK

# Keys hold a tier's level as of the last look at the clock; older than this, they are made anew.
_REFRESH_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTask:
    """A task without a node. `queued_at` is when it last began to wait, `created_at` when it came."""

    task_id: str
    owner_id: int
    wish: Wish
    priority: int
    created_at: float
    queued_at: float
    attempt_number: int = 0
    location_mode: LocationMode = LocationMode.STRICT


@dataclass(frozen=True, slots=True)
class Ageing:
    tier_seconds: float
    priority_seconds: float
    region_patience_seconds: float


_Key = tuple[int, int, float, int]


@dataclass(slots=True, eq=False)
class Group:
    """Tasks with one wish, by their owners."""

    wish: Wish
    by_owner: dict[int, list[tuple[float, str]]] = field(default_factory=dict)  # heaps
    order: list[_Key] = field(default_factory=list)  # a heap of the owners' first tasks
    blocked: bool = False


class WaitingLine:
    """Not thread-safe. `served` tells how many default tasks' worth a user has used lately."""

    def __init__(self, ageing: Ageing, served: Callable[[int], float]) -> None:
        self._ageing = ageing
        self._served = served
        self._tasks: dict[str, WaitingTask] = {}
        self._groups: dict[Wish, Group] = {}
        # Groups by their first task's key. Entries may be out of date: they are looked at when they come up.
        self._order: list[tuple[_Key, int, Group]] = []
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
        return {owner_id for group in self._groups.values() for owner_id in group.by_owner}

    def groups(self) -> list[Group]:
        """Those with tasks in them."""
        return list(self._groups.values())

    def group_of(self, wish: Wish) -> Group | None:
        return self._groups.get(wish)

    def tasks_of(self, group: Group) -> list[WaitingTask]:
        return [
            task
            for heap in group.by_owner.values()
            for _, task_id in heap
            if (task := self._tasks.get(task_id)) is not None and task.wish == group.wish
        ]

    def add(self, task: WaitingTask, now: float) -> None:
        """Let it wait. One that is here already is replaced."""
        self.discard(task.task_id)
        patience = self._ageing.region_patience_seconds
        if task.location_mode is LocationMode.PREFER and not task.wish.relaxed:
            if now - task.queued_at >= patience:
                task = replace(task, wish=replace(task.wish, relaxed=True))
            else:
                heapq.heappush(self._patient, (task.queued_at + patience, task.task_id))
        self._tasks[task.task_id] = task
        group = self._groups.get(task.wish)
        if group is None:
            group = self._groups[task.wish] = Group(task.wish)
        heap = group.by_owner.setdefault(task.owner_id, [])
        heapq.heappush(heap, (self._static(task), task.task_id))
        if heap[0][1] == task.task_id:
            self._enter(group, task, now)

    def discard(self, task_id: str) -> WaitingTask | None:
        """Out of the line, wherever in it. What the heaps still hold of it is passed over."""
        return self._tasks.pop(task_id, None)

    def head(self, now: float) -> tuple[WaitingTask, Group] | None:
        """Who is next, of the groups that are not blocked."""
        self._mature(now)
        if now - self._refreshed_at > _REFRESH_SECONDS:
            self._refresh(now)
        while self._order:
            key, _, group = self._order[0]
            first = None if group.blocked else self._first_of(group, now)
            if first is not None and first[0] <= key:
                return first[1], group
            heapq.heappop(self._order)
            if first is not None:
                self._push(first[0], group)
        return None

    def take(self, task: WaitingTask, now: float) -> None:
        """The task has a node. Call after its owner was charged for it."""
        self.discard(task.task_id)
        group = self._groups.get(task.wish)
        if group is not None and (first := self._first_of(group, now)) is not None:
            self._push(first[0], group)

    def block(self, group: Group) -> None:
        """No node fits the group now."""
        group.blocked = True

    def unblock(self, group: Group, now: float) -> None:
        if group.blocked:
            group.blocked = False
            if (first := self._first_of(group, now)) is not None:
                self._push(first[0], group)

    def unblock_all(self, now: float) -> None:
        for group in self.groups():
            self.unblock(group, now)

    # ------------------------------------------------------------------------------------------------
    def _static(self, task: WaitingTask) -> float:
        """Smaller comes first. Waiting counts as priority, which changes nothing of the order of two."""
        return task.created_at - task.priority * self._ageing.priority_seconds

    def _key(self, task: WaitingTask, now: float) -> _Key:
        waited = max(0.0, now - task.created_at)
        level = max(0, RANK[task.wish.tier] - int(waited / self._ageing.tier_seconds))
        return (level, int(self._served(task.owner_id)), self._static(task), task.owner_id)

    def _enter(self, group: Group, first: WaitingTask, now: float) -> None:
        key = self._key(first, now)
        heapq.heappush(group.order, key)
        if not group.blocked and group.order[0] == key:
            self._push(key, group)

    def _push(self, key: _Key, group: Group) -> None:
        self._count += 1
        heapq.heappush(self._order, (key, self._count, group))

    def _first_of(self, group: Group, now: float) -> tuple[_Key, WaitingTask] | None:
        """The group's first task; None, and the group forgotten, when none is left."""
        while group.order:
            entry = group.order[0]
            task = self._first_of_owner(group, entry[3])
            if task is None:
                heapq.heappop(group.order)
                continue
            key = self._key(task, now)
            if key == entry:
                return key, task
            # Its owner was served since, or another task of his is first.
            heapq.heapreplace(group.order, key)
            if group.order[0] == key:
                return key, task
        if self._groups.get(group.wish) is group and not group.by_owner:
            del self._groups[group.wish]
        return None

    def _first_of_owner(self, group: Group, owner_id: int) -> WaitingTask | None:
        heap = group.by_owner.get(owner_id)
        while heap:
            static, task_id = heap[0]
            task = self._tasks.get(task_id)
            if task is not None and task.wish == group.wish and self._static(task) == static:
                return task
            heapq.heappop(heap)
        group.by_owner.pop(owner_id, None)
        return None

    def _mature(self, now: float) -> None:
        """Those who only prefer their region, and have waited for it long enough."""
        while self._patient and self._patient[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._patient)[1])
            if task is not None and not task.wish.relaxed:
                self.add(replace(task, wish=replace(task.wish, relaxed=True)), now)

    def _refresh(self, now: float) -> None:
        """Levels and served shares change with time: the heaps anew."""
        self._refreshed_at = now
        self._order = []
        for group in self.groups():
            firsts = [self._first_of_owner(group, owner_id) for owner_id in list(group.by_owner)]
            group.order = [self._key(task, now) for task in firsts if task is not None]
            heapq.heapify(group.order)
            if not group.order:
                del self._groups[group.wish]
            elif not group.blocked:
                self._push(group.order[0], group)


def order_of(line: WaitingLine, now: float, limit: int = MAX_PRIORITY * 10_000) -> list[str]:
    """The ids in the order in which they would be taken if there were room for all. Empties the line."""
    line.unblock_all(now)
    ids: list[str] = []
    while len(ids) < limit and (head := line.head(now)) is not None:
        ids.append(head[0].task_id)
        line.take(head[0], now)
    return ids
