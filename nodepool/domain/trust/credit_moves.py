"""What events make of credit scores: which of them count, and what the scores are afterwards. Pure.

What one event of a cause is worth is in `domain/trust/credit.py`. Here several of them meet the scores as
they are: each counts once, a score that drifted meanwhile drifts first, and a cause has its bound for a day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodepool.domain.trust import credit
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.domain.trust.tiers import task_tier
from nodepool.domain.trust.voting import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChange:
    """Something happened that may move the user's score. `id` is of the event: see `change_id`."""

    id: str
    user_id: int
    cause: Cause
    reason: str
    task_id: str = ""
    node_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A user's score as it is, with what counts beside it."""

    user_id: int
    score: int
    decayed_at: float = 0.0
    moved_today: Mapping[Cause, int] = field(default_factory=dict)  # points of each cause within a day
    known: frozenset[str] = frozenset()  # events that have counted before


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One line of a user's history."""

    change: NewChange
    delta: int
    score_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMove:
    """What becomes of one user's score."""

    user_id: int
    before: int
    after: int
    decayed_at: float
    rows: tuple[ScoreRow, ...] = ()

    @property
    def changes_tier(self) -> bool:
        return task_tier(self.before) is not task_tier(self.after)


def change_id(cause: Cause, event: str) -> str:
    return f"{cause}:{event}"


def would_move(score: Score, change: NewChange, start: int) -> bool:
    """Most events move nothing, because their cause has reached its bound for the day."""
    today = score.moved_today.get(change.cause, 0)
    return credit.change_of(change.cause, score.score, moved_today=today, start=start) != 0


def moves(
    scores: Mapping[int, Score], changes: Iterable[NewChange], *, start: int, now: float
) -> tuple[ScoreMove, ...]:
    """What these events make of the scores, in the order of the users. `start`: what scores drift to."""
    running: dict[int, _RunningScore] = {}
    for change in sorted(changes, key=lambda it: it.user_id):
        score = scores.get(change.user_id)
        if score is None or change.id in score.known or not would_move(score, change, start):
            continue
        if change.user_id not in running:
            running[change.user_id] = _RunningScore(score, start, now)
        running[change.user_id].add(change)
    return tuple(it.move() for it in running.values())


def drifted(score: Score, start: int, now: float) -> ScoreMove:
    """What the time that passed has made of it."""
    return _RunningScore(score, start, now).move()


def set_to(score: Score, value: int, change: NewChange, *, start: int, now: float) -> ScoreMove:
    """The operator's word."""
    running = _RunningScore(score, start, now)
    running.put(change, value - running.value)
    return running.move()


class _RunningScore:
    """A score with the events that have moved it so far."""

    def __init__(self, score: Score, start: int, now: float) -> None:
        self._of, self._start = score, start
        self._today = dict(score.moved_today)
        self._rows: list[ScoreRow] = []
        self.value = score.score
        points, self._decayed_at = credit.drift(score.score, score.decayed_at, now, start)
        if points:
            event = f"{score.user_id}:{self._decayed_at:.0f}"
            meaning = MOVES[Cause.DECAY].meaning
            self.put(_change(Cause.DECAY, event, score.user_id, meaning), points)

    def add(self, change: NewChange) -> None:
        today = self._today.get(change.cause, 0)
        delta = credit.change_of(change.cause, self.value, moved_today=today, start=self._start)
        if delta:
            self.put(change, delta)

    def put(self, change: NewChange, delta: int) -> None:
        self.value += delta
        self._today[change.cause] = self._today.get(change.cause, 0) + delta
        self._rows.append(ScoreRow(change=change, delta=delta, score_after=self.value))

    def move(self) -> ScoreMove:
        return ScoreMove(
            user_id=self._of.user_id,
            before=self._of.score,
            after=self.value,
            decayed_at=self._decayed_at,
            rows=tuple(self._rows),
        )


def _change(cause: Cause, event: str, user_id: int, reason: str) -> NewChange:
    return NewChange(id=change_id(cause, event), user_id=user_id, cause=cause, reason=reason)


def of_finding(
    finding: Finding, *, attempt_id: str, task_id: str, node_id: str, provider_id: int, task_owner_id: int
) -> list[NewChange]:
    """What the comparison of a run is worth; nothing where it says nothing, or of one's own."""
    cause = {Finding.VERIFIED: Cause.VERIFIED, Finding.DIFFERED: Cause.DIFFERED}.get(finding)
    if cause is None or provider_id == task_owner_id:
        return []
    return [
        NewChange(
            id=change_id(cause, attempt_id),
            user_id=provider_id,
            cause=cause,
            reason=MOVES[cause].meaning,
            task_id=task_id,
            node_id=node_id,
        )
    ]
