"""Whose turn it is when: the order of those who wait, a task's place in it, and how long that may take.

Pure. The order is that of `wait_queue`, played through as if there were room for everybody, with
each owner charged for what was taken, as the dispatcher does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nodepool.domain.explain.explanation import PlacementExplanation, nodes_in_words
from nodepool.domain.scheduling.fair_share import EXPECTED_MINUTES, cost_per_minute
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask, WaitQueue
from nodepool.domain.trust.tiers import RANK

NOTHING_KNOWN = -1.0
_SECONDS_PER_MINUTE = 60

# Smaller comes first: tier with ageing, what its owner has used, priority and age.
_Key = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
class _QueuedTask:
    key: _Key
    owner_id: int
    units: float
    counts: bool


class QueueOrder:
    """Those who wait, in the order in which they would be taken. `hopeless` can be run by no node."""

    def __init__(
        self,
        tasks: Iterable[WaitingTask],
        ageing: Ageing,
        served: Mapping[int, float],
        now: float,
        *,
        hopeless: frozenset[str] = frozenset(),
    ) -> None:
        self._ageing, self._served, self._now = ageing, served, now
        self._turns: list[_QueuedTask] = []
        # task id -> its position, and how many that a node can run come before it
        self._places: dict[str, tuple[int, int]] = {}
        used = dict(served)
        queue = WaitQueue(ageing, lambda owner_id: used.get(owner_id, 0.0))
        for task in tasks:
            queue.add(task, now)
        ahead = 0
        while (head := queue.head(now)) is not None:
            task = head[0]
            owned = used.get(task.owner_id, 0.0)
            counts = task.task_id not in hopeless
            turn = _QueuedTask(self._key(task, owned), task.owner_id, _units(task), counts)
            self._turns.append(turn)
            self._places[task.task_id] = (len(self._turns), ahead)
            ahead += counts
            used[task.owner_id] = owned + turn.units
            queue.take(task, now)

    def __len__(self) -> int:
        return len(self._turns)

    def place_of(self, task_id: str) -> tuple[int, int] | None:
        """(position, 1 for the next one; how many that a node can run come before it)."""
        return self._places.get(task_id)

    def place_for(self, task: WaitingTask) -> tuple[int, int]:
        """The same for one that is not in the queue: before the first that would have to wait for it."""
        used = self._served.get(task.owner_id, 0.0)
        ahead = 0
        for index, turn in enumerate(self._turns):
            if self._key(task, used) < turn.key:
                return index + 1, ahead
            ahead += turn.counts
            if turn.owner_id == task.owner_id:
                used += turn.units
        return len(self._turns) + 1, ahead

    def _key(self, task: WaitingTask, used: float) -> _Key:
        waited = max(0.0, self._now - task.created_at)
        level = max(0, RANK[task.requirements.tier] - int(waited / self._ageing.tier_seconds))
        return level, int(used), task.created_at - task.priority * self._ageing.priority_seconds


def _units(task: WaitingTask) -> float:
    return cost_per_minute(task.requirements.claim) * EXPECTED_MINUTES


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """`seconds` is NOTHING_KNOWN where nothing can be said; `basis` says what it rests on, or why not."""

    seconds: float
    basis: str


NOBODY_PLACES = WaitEstimate(
    NOTHING_KNOWN,
    "no dispatcher is working, so nothing is placed; the pool's operator has to start one",
)


def estimate(
    explanation: PlacementExplanation, *, ahead: int, starts: int, window_seconds: float, patience_left: float
) -> WaitEstimate:
    """How long a task waits, with `ahead` before it, where a dispatcher works; else NOBODY_PLACES.

    `starts` were started in the last `window_seconds` on the nodes that can run it. `patience_left` is
    how long it waits on for the region that it prefers.
    """
    could = nodes_in_words(len(explanation.could_run))
    minutes = f"{window_seconds / _SECONDS_PER_MINUTE:g} minutes"
    if explanation.decision.ranked:
        return WaitEstimate(0.0, "a node has room now")
    if explanation.decision.looked_at == 0:
        return WaitEstimate(NOTHING_KNOWN, "no node has joined the pool yet")
    if explanation.elsewhere:
        left = max(0.0, patience_left)
        return WaitEstimate(left, f"after {left:.0f} s more it takes the nearest region with room")
    if explanation.can_never_run:
        return WaitEstimate(NOTHING_KNOWN, "no node could ever run it as it is asked for")
    if not explanation.could_run:
        return WaitEstimate(NOTHING_KNOWN, "the nodes that could run it are offline or draining")
    if not starts:
        return WaitEstimate(
            NOTHING_KNOWN, f"nothing was started in the last {minutes} on the {could} that can run it"
        )
    before = "none before it" if not ahead else f"{ahead} before it"
    return WaitEstimate(
        (ahead + 1) * window_seconds / starts,
        f"{starts} tasks were started in the last {minutes} on the {could} that can run it; {before} wait",
    )
