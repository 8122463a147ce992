"""Who is late, and whether that may be believed.

When a node was heard of is what this dispatcher's own sweep has seen: a report that is gone from Redis
(FLUSHALL, a restart without its data) does not mean that nobody wrote it. When most of the fleet falls
silent at once, the fault is more likely ours: the brake keeps their work where it is, for a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from nodepool.stores.redis.liveness import NodeHeartbeat

# Losing more of the fleet than this at once is more likely the pool's own trouble than theirs.
BRAKE_SHARE = 0.5
BRAKE_MIN_NODES = 5
# Silent for so many times NODE_LATE_SECONDS, a node's work is given away whatever the others do: its
# lease has ended its runs long ago.
BRAKE_PERIODS = 20


@dataclass(frozen=True, slots=True)
class ExpectedNode:
    """A node that should be heard of."""

    node_id: str
    registered_at: float


class FailureDetector:
    """For one thread. Times are seconds of the pool's clock."""

    def __init__(self, now: float, late_seconds: float) -> None:
        self._late_seconds = late_seconds
        self._silence_counts_from = now
        self._heard_at: dict[str, float] = {}
        self._witnessed: set[str] = set()

    def forget_silence(self, now: float) -> None:
        """Until now nobody could be heard: everybody gets the full time again."""
        self._silence_counts_from = now

    def late_nodes(
        self, beats: Iterable[ExpectedNode], signs: Iterable[NodeHeartbeat], now: float
    ) -> dict[str, float]:
        """The late ones, and when each was last heard of."""
        late, heard_at, witnessed = {}, {}, set()
        for beat, sign in zip(beats, signs, strict=True):
            node_id, age = beat.node_id, sign.age_seconds
            heard = max(self._heard_at.get(node_id, 0.0), beat.registered_at)
            if age <= self._late_seconds:
                heard = max(heard, now - age)
                witnessed.add(node_id)
            elif node_id in self._witnessed:
                witnessed.add(node_id)
            heard_at[node_id] = heard
            heard = max(heard, self._silence_counts_from)
            if now - heard > self._late_seconds:
                late[node_id] = heard
        self._heard_at, self._witnessed = heard_at, witnessed
        return late

    def next_late(self, busy: Collection[str], now: float) -> float:
        """In how many seconds the first of these nodes will be late that is not, if it stays silent."""
        left = (
            max(self._heard_at.get(node_id, now), self._silence_counts_from) + self._late_seconds - now
            for node_id in busy
        )
        return min((seconds for seconds in left if seconds >= 0), default=float("inf"))

    def braked(self, late: Mapping[str, float], busy: Collection[str], now: float) -> frozenset[str]:
        """Late nodes with work that are to be left alone; none of them when the brake is off.

        Those count that this sweep has heard of before, or that have work: a node that nobody has seen
        for weeks says nothing about today.
        """
        before = now - BRAKE_PERIODS * self._late_seconds
        vanished = {node_id for node_id, heard in late.items() if heard >= before}
        with_work = vanished.intersection(busy)
        known = self._witnessed.union(busy)
        there = len(known) - len(known.intersection(late))
        gone = len(known.intersection(vanished))
        if len(with_work) >= BRAKE_MIN_NODES and gone > BRAKE_SHARE * (there + gone):
            return frozenset(with_work)
        return frozenset()
