"""What moves a user's credit score, and how far. Knows no tiers: a score is a number. Pure.

Docs/money.md has the same table of causes, and docs/adr/0016-what-moves-a-credit-score.md says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

LOWEST_SCORE, HIGHEST_SCORE = 0, 1000
# A score drifts one point towards the start value in every such time.
DRIFT_SECONDS = 7 * 86400.0
DAY_SECONDS = 86400.0


class Cause(StrEnum):
    """Why a credit score changed."""

    VERIFIED = "verified"
    PROBED = "probed"
    LOST = "lost"
    LATE = "late"
    DIFFERED = "differed"
    IDLE = "idle"
    FALSE_CLAIM = "false_claim"
    DECAY = "decay"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What one event of a cause is worth to the owner of the node. `meaning` is for people."""

    delta: int  # 0: it depends
    meaning: str
    most_per_day: int = 0  # points within 24 hours; 0: no bound
    up_to_start: bool = False  # it lifts no score above the start value


# Nobody's own tasks move their score, and neither does what is nobody's fault: evictions, stops, and what a
# node that drains or leaves in good order gives back.
MOVES: Mapping[Cause, Move] = MappingProxyType(
    {
        Cause.VERIFIED: Move(
            delta=1,
            most_per_day=5,
            meaning="a result that the pool chose to compare with other owners', and that agreed",
        ),
        Cause.PROBED: Move(
            delta=1, most_per_day=1, up_to_start=True, meaning="the right answer to a probe of the pool"
        ),
        Cause.LOST: Move(
            delta=-2, most_per_day=10, meaning="a run that the node lost: it crashed, or was not heard of"
        ),
        Cause.LATE: Move(
            delta=-3, most_per_day=15, meaning="a run that the pool had to end: past its bound, or stopped"
        ),
        Cause.DIFFERED: Move(
            delta=-25, meaning="a result that a check of the pool refutes, or a wrong answer to a probe"
        ),
        Cause.IDLE: Move(delta=-25, meaning="a run that the pool had to end, and that nobody had worked at"),
        Cause.FALSE_CLAIM: Move(
            delta=-15, meaning="a cpu_score that several probes in a row did not bear out"
        ),
        Cause.DECAY: Move(delta=0, meaning="one point a week towards the start value"),
        Cause.ADMIN: Move(delta=0, meaning="set by the operator"),
    }
)


def change_of(cause: Cause, score: int, *, moved_today: int, start: int) -> int:
    """By how much one event of this cause moves the score; 0 at a bound.

    `moved_today` is what the cause moved it by in the last 24 hours, up or down.
    """
    move = MOVES[cause]
    size = abs(move.delta)
    if move.most_per_day:
        size = min(size, max(0, move.most_per_day - abs(moved_today)))
    if move.delta < 0:
        return -min(size, max(0, score - LOWEST_SCORE))
    highest = start if move.up_to_start else HIGHEST_SCORE
    return min(size, max(0, highest - score))


def drift(score: int, since: float, now: float, start: int) -> tuple[int, float]:
    """(points, since when the next one counts). `since` 0: it never drifted, and begins to now.

    Whole points only. A score at the start value stays, and its time begins when it leaves it.
    """
    if now < since:
        return 0, since
    if score == start or since <= 0:
        return 0, now
    periods = int((now - since) / DRIFT_SECONDS)
    points = min(periods, abs(start - score))
    after = now if points == abs(start - score) else since + periods * DRIFT_SECONDS
    return (points if start > score else -points), after


def within_bounds(score: int) -> bool:
    return LOWEST_SCORE <= score <= HIGHEST_SCORE
