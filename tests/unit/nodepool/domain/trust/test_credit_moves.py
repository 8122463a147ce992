"""Several events and one score: each counts once, bounds of a day hold, time has drifted it first."""

from __future__ import annotations

from nodepool.domain.trust.credit import DRIFT_SECONDS, Cause
from nodepool.domain.trust.credit_moves import NewChange, Score, change_id, drifted, moves, set_to, would_move

NOW, START, USER = 10 * DRIFT_SECONDS, 50, 7


def change(cause: Cause, event: str = "a", user: int = USER) -> NewChange:
    return NewChange(id=change_id(cause, event), user_id=user, cause=cause, reason="so it was")


def score(points: int, **facts: object) -> Score:
    return Score(user_id=USER, score=points, **{"decayed_at": NOW, **facts})  # type: ignore[arg-type]


def after(there: Score, *changes: NewChange) -> list[tuple[Cause, int, int]]:
    moved = moves({USER: there}, changes, start=START, now=NOW)
    return [(row.change.cause, row.delta, row.score_after) for move in moved for row in move.rows]


def test_events_add_up_within_the_bound_of_a_day() -> None:
    verified = [change(Cause.VERIFIED, str(number)) for number in range(3)]
    there = score(60, moved_today={Cause.VERIFIED: 3})
    assert after(there, *verified) == [(Cause.VERIFIED, 1, 61), (Cause.VERIFIED, 1, 62)]


def test_an_event_counts_once_and_nobody_elses() -> None:
    lost = change(Cause.LOST)
    assert after(score(60, known=frozenset({lost.id})), lost) == []
    assert after(score(60), change(Cause.LOST, user=8)) == []


def test_time_drifts_a_score_before_an_event_moves_it() -> None:
    there = score(60, decayed_at=NOW - 2 * DRIFT_SECONDS)
    assert after(there, change(Cause.DIFFERED)) == [(Cause.DECAY, -2, 58), (Cause.DIFFERED, -25, 33)]
    assert drifted(there, START, NOW).after == 58


def test_what_moves_nothing_is_known_before_anything_is_locked() -> None:
    assert not would_move(score(0), change(Cause.DIFFERED), START)
    assert not would_move(score(60, moved_today={Cause.LOST: -10}), change(Cause.LOST), START)
    assert would_move(score(60), change(Cause.LOST), START)


def test_a_tier_changes_where_the_score_crosses_its_bound() -> None:
    (move,) = moves({USER: score(51)}, [change(Cause.LOST)], start=START, now=NOW)
    assert (move.before, move.after, move.changes_tier) == (51, 49, True)
    (move,) = moves({USER: score(60)}, [change(Cause.LOST)], start=START, now=NOW)
    assert not move.changes_tier


def test_the_operators_word_is_a_row_whatever_it_changes() -> None:
    move = set_to(score(60), 60, change(Cause.ADMIN), start=START, now=NOW)
    assert [(row.delta, row.score_after) for row in move.rows] == [(0, 60)]
