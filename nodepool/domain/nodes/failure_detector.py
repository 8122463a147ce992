"""Which nodes are late, and whether that may be believed. Pure.

Silence is counted by the dispatcher's own clock, from when it saw that a report had been written again:
what a report or Redis says of the time may jump. It counts only while the node could be heard. A report that
is gone from Redis (FLUSHALL, a restart without its data) does not mean that nobody wrote it. When most of
the fleet falls silent at once, the fault may be ours: the brake keeps their work where it is until it is
known better (mass_silence), or for a time, and whoever it held is not blamed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

# Losing more of the fleet than this at once is more likely the pool's own trouble than theirs.
BRAKE_SHARE = 0.5
BRAKE_MIN_NODES = 5
# Reports of nodes that vanished in one moment were due one after the other: silent for this share of
# NODE_LATE_SECONDS, a node counts as vanished beside one that is late.
_MISSING_SHARE = 0.5
# Silent for so many times NODE_LATE_SECONDS, and as long as agents keep their runs in an outage, a node's
# work is given away whatever the others do.
BRAKE_PERIODS = 20
# Between two looks more than this share of NODE_LATE_SECONDS does not count: nobody listened.
_COUNTED_SHARE = 1 / 3
# After an outage a node has so many times NODE_LATE_SECONDS until it is heard of again: it may have to
# find the broker, and to enrol anew, together with all others.
RETURN_PERIODS = 2
# A look takes its time, and a report is not another one for less than this.
_JITTER_SECONDS = 0.1
# By so much more than the time between two looks a new report may seem old, when one of them took long.
_LONG_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ExpectedNode:
    """A node that should be heard of. `noted`: changes when a gateway that had no Redis heard of it."""

    node_id: str
    registered: float
    noted: float = 0.0


@dataclass(slots=True)
class _Known:
    registered: float
    noted: float
    age_seconds: float
    heard_at: float
    witnessed: bool = False
    doubted: bool = False  # its silence may have been ours


def is_written_again(age_seconds: float, *, before: float, elapsed_seconds: float) -> bool:
    """Whether a report of this age is another one than that of the last look, which was so old then."""
    if age_seconds > elapsed_seconds + _LONG_LOOK_SECONDS:
        return False
    return age_seconds < before + elapsed_seconds - _JITTER_SECONDS


class FailureDetector:
    """For one thread. Times are seconds of one steady clock; what comes out are those of them that count."""

    def __init__(self, now: float, late_seconds: float, *, grace_seconds: float = 0.0) -> None:
        self._late_seconds = late_seconds
        self.brake_seconds = max(BRAKE_PERIODS * late_seconds, grace_seconds)
        self._looked_at = now
        self._counted = now
        self._silence_counts_from = now
        self._forgets = True
        self._known: dict[str, _Known] = {}

    def forget_silence(self) -> None:
        """Until the next look nobody could be heard: everybody gets the time to report again."""
        self._forgets = True

    def late_nodes(
        self, expected: Iterable[ExpectedNode], ages: Iterable[float], now: float
    ) -> dict[str, float]:
        """The late ones, and when each was last heard of. `ages` of their reports; endless without one."""
        elapsed = max(0.0, now - self._looked_at)
        self._looked_at = now
        self._counted += min(elapsed, _COUNTED_SHARE * self._late_seconds)
        is_first = not self._known
        if self._forgets:
            self._silence_counts_from, self._forgets = self._counted, False
        known, late = {}, {}
        for node, age in zip(expected, ages, strict=True):
            it = self._heard(node, age, elapsed, is_first=is_first)
            known[node.node_id] = it
            if self._left(it) < 0:
                late[node.node_id] = max(it.heard_at, self._silence_counts_from)
        self._known = known
        return late

    def _heard(self, node: ExpectedNode, age: float, elapsed: float, *, is_first: bool) -> _Known:
        counted, it = self._counted, self._known.get(node.node_id)
        if it is None:
            # One that comes while this sweep looks has just registered.
            heard_at = counted - age if age <= self._late_seconds else (-math.inf if is_first else counted)
            it = _Known(node.registered, node.noted, age, heard_at, age <= self._late_seconds)
        elif is_written_again(age, before=it.age_seconds, elapsed_seconds=elapsed):
            it.heard_at, it.witnessed = max(it.heard_at, counted - age), True
            it.doubted = False
        if (it.registered, it.noted) != (node.registered, node.noted):
            it.heard_at = counted
        it.registered, it.noted, it.age_seconds = node.registered, node.noted, age
        return it

    def _left(self, it: _Known) -> float:
        """In how many seconds the node will be late, if it stays silent; below zero it is."""
        counts_from = self._silence_counts_from
        allowed = self._late_seconds * (1 if it.heard_at > counts_from else RETURN_PERIODS)
        return allowed - (self._counted - max(it.heard_at, counts_from))

    def next_late(self, busy: Collection[str]) -> float:
        """In how many seconds the first of these nodes will be late that is not, if it stays silent."""
        left = (self._left(self._known[node_id]) for node_id in busy if node_id in self._known)
        return min((seconds for seconds in left if seconds >= 0), default=float("inf"))

    def braked(self, late: Mapping[str, float], busy: Collection[str]) -> frozenset[str]:
        """Late nodes with work that are to be left alone; none of them when the brake is off.

        Those count that this sweep has heard of before, or that have work: a node that nobody has seen
        for weeks says nothing about today.
        """
        before = self._counted - self.brake_seconds
        long_gone = {node_id for node_id, heard in late.items() if heard < before}
        vanished = {*self._missing(), *late} - long_gone
        known = {node_id for node_id, it in self._known.items() if it.witnessed}.union(busy)
        there = len(known - vanished - long_gone)
        gone = len(known & vanished)
        # Whose work was given away since is one of them still.
        with_work = {node_id for node_id in vanished if node_id in busy or self.is_doubted(node_id)}
        if len(with_work) < BRAKE_MIN_NODES or gone <= BRAKE_SHARE * (there + gone):
            return frozenset()
        for node_id in with_work.intersection(self._known):
            self._known[node_id].doubted = True
        return frozenset(late).difference(long_gone).intersection(busy)

    def _missing(self) -> set[str]:
        silence = _MISSING_SHARE * self._late_seconds
        return {
            node_id
            for node_id, it in self._known.items()
            if self._counted - max(it.heard_at, self._silence_counts_from) >= silence
        }

    def is_doubted(self, node_id: str) -> bool:
        """Whether the brake held the node since it was last heard of: nobody knows whose fault that is."""
        it = self._known.get(node_id)
        return it is not None and it.doubted

    def heard(self) -> list[str]:
        """Nodes that report now, as this sweep has seen itself."""
        missing = self._missing()
        return [node_id for node_id, it in self._known.items() if it.witnessed and node_id not in missing]
