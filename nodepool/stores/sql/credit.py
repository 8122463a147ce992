"""Credit scores in SQL: every change is a row with its reason, and a repeat of an event changes nothing.

Functions of a connection: the use case that calls them owns the transaction. They lock rows of users, each
after the rows of tasks and the ledger's head (see ledger.postings), several in the order of their ids. What
they return are the users whose tier has changed; `Lifecycle.sync_nodes_of` tells everybody of those, after
the commit.

An event that moves nothing, because its cause has reached its bound for the day, leaves no row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, case, func, insert, or_, select, update

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.money import ledger
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskKind, TaskState
from nodepool.domain.trust import credit as trust, credit_moves, tiers
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.domain.trust.credit_moves import NewChange, Score, ScoreMove, change_id
from nodepool.domain.trust.tiers import Tier
from nodepool.stores.sql.tables import credit_changes, holds, tasks, users
from nodepool.stores.sql.typed_rows import FromRow, columns

_MAX_REASON = 500
# Scores move seldom: these are of more than a day, but where somebody attacks.
_NEWEST_CHANGES = 2000
_LIVE_STATES = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
NOBODY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ScoreChange(FromRow):
    """A change of somebody's score that was kept, with its reason."""

    seq: int
    id: str
    kind: str  # of a Cause
    delta: int
    score_after: int
    reason: str
    task_id: str
    node_id: str
    created_at: float


_SCORES = (
    select(users.c.id, users.c.credit_score, users.c.credit_decayed_at)
    .where(users.c.id.in_(bindparam("users", expanding=True)))
    .order_by(users.c.id)
)
# SQLite has one writer anyway, and leaves the lock out. Rows that refer to the user may still be added.
_LOCKED_SCORES = _SCORES.with_for_update(key_share=True)
_TODAY = (
    select(credit_changes.c.user_id, credit_changes.c.kind, func.sum(credit_changes.c.delta).label("points"))
    .where(
        credit_changes.c.user_id.in_(bindparam("users", expanding=True)),
        credit_changes.c.kind.in_(bindparam("kinds", expanding=True)),
        credit_changes.c.created_at > bindparam("since"),
    )
    .group_by(credit_changes.c.user_id, credit_changes.c.kind)
)
_KNOWN = select(credit_changes.c.user_id, credit_changes.c.id).where(
    credit_changes.c.id.in_(bindparam("changes", expanding=True))
)
_INSERT = insert(credit_changes)
_UPDATE = (
    update(users)
    .where(users.c.id == bindparam("user"), users.c.credit_score == bindparam("before"))
    .values(credit_score=bindparam("after"), credit_decayed_at=bindparam("decayed_at"))
)
# One person's tasks say only so much of whoever runs them.
_RAISED_BY_USER = (
    select(credit_changes.c.user_id)
    .outerjoin(tasks, tasks.c.id == credit_changes.c.task_id)
    # The task may have been removed; its hold stays.
    .outerjoin(holds, holds.c.task_id == credit_changes.c.task_id)
    .where(
        credit_changes.c.user_id.in_(bindparam("users", expanding=True)),
        credit_changes.c.kind == Cause.VERIFIED,
        credit_changes.c.created_at > bindparam("since"),
        or_(
            tasks.c.owner_id == bindparam("submitter"),
            holds.c.account_id == bindparam("submitter_account"),
        ),
    )
    .distinct()
)
_TIER_OF_OWNER = (
    select(
        case(
            (users.c.credit_score >= tiers.HIGH_SCORE, Tier.HIGH.value),
            (users.c.credit_score >= tiers.NORMAL_SCORE, Tier.NORMAL.value),
            else_=Tier.LOW.value,
        )
    )
    .where(users.c.id == tasks.c.owner_id)
    .scalar_subquery()
)

_STALE = tasks.c.state.in_(_LIVE_STATES) & (tasks.c.kind != TaskKind.PROBE) & (tasks.c.tier != _TIER_OF_OWNER)


# -- by what happened --------------------------------------------------------------------------------
def move(connection: Connection, changes: Iterable[NewChange], *, start: int, now: float) -> frozenset[int]:
    """Bring the scores up to date with what happened. `start`: what scores drift to."""
    changes = list(changes)
    moving = that_may_move(connection, changes, start=start, now=now)
    scores = lock_scores(connection, moving, now)
    return put(connection, credit_moves.moves(scores, moving, start=start, now=now), now)


def that_may_move(
    connection: Connection, changes: Iterable[NewChange], *, start: int, now: float
) -> list[NewChange]:
    """Most move nothing, and then nobody's row is locked. Locks nothing."""
    wanted = list(changes)
    scores = _read(connection, wanted, now, locked=False)
    return [
        it for it in wanted if it.user_id in scores and credit_moves.would_move(scores[it.user_id], it, start)
    ]


def lock_scores(connection: Connection, changes: Iterable[NewChange], now: float) -> dict[int, Score]:
    """The scores of those whom these events are about, which nobody else may change now."""
    return _read(connection, list(changes), now, locked=True)


def _read(
    connection: Connection, changes: Collection[NewChange], now: float, *, locked: bool
) -> dict[int, Score]:
    if not changes:
        return {}
    wanted = sorted({change.user_id for change in changes})
    found = connection.execute(_LOCKED_SCORES if locked else _SCORES, {"users": wanted}).all()
    today: dict[int, dict[Cause, int]] = {user_id: {} for user_id in wanted}
    kinds = sorted({change.cause.value for change in changes})
    since = {"users": wanted, "kinds": kinds, "since": now - trust.DAY_SECONDS}
    for user_id, kind, points in connection.execute(_TODAY, since):
        today[user_id][Cause(kind)] = int(points)
    known: dict[int, set[str]] = {user_id: set() for user_id in wanted}
    if locked:
        for user_id, change in connection.execute(_KNOWN, {"changes": [it.id for it in changes]}):
            known.setdefault(user_id, set()).add(change)
    return {
        row.id: Score(
            user_id=row.id,
            score=row.credit_score,
            decayed_at=row.credit_decayed_at,
            moved_today=today[row.id],
            known=frozenset(known[row.id]),
        )
        for row in found
    }


def put(connection: Connection, moves: Iterable[ScoreMove], now: float) -> frozenset[int]:
    """The scores as they were decided, with their reasons; users whose tier has changed."""
    changed = set()
    for moved in moves:
        for row in moved.rows:
            change = row.change
            connection.execute(
                _INSERT,
                {
                    "id": change.id,
                    "user_id": change.user_id,
                    "kind": change.cause.value,
                    "delta": row.delta,
                    "score_after": row.score_after,
                    "reason": change.reason[:_MAX_REASON],
                    "task_id": change.task_id,
                    "node_id": change.node_id,
                    "created_at": now,
                },
            )
        values = {"before": moved.before, "after": moved.after, "decayed_at": moved.decayed_at}
        connection.execute(_UPDATE, {"user": moved.user_id, **values})
        if moved.changes_tier:
            changed.add(moved.user_id)
    return frozenset(changed)


def owners_charged_for_losses(connection: Connection, task_owner_id: int, since: float) -> int:
    """How many owners' scores fell since then because their nodes lost tasks of this user; of the newest
    changes of all scores only."""
    changes = credit_changes.c
    newest = (
        select(changes.user_id, changes.kind, changes.task_id, changes.created_at)
        .order_by(changes.seq.desc())
        .limit(_NEWEST_CHANGES)
        .subquery()
    )
    query = (
        select(func.count(newest.c.user_id.distinct()))
        .join(tasks, tasks.c.id == newest.c.task_id)
        .where(newest.c.kind == Cause.LOST, newest.c.created_at > since)
        # Not found by their owner: these changes name few tasks, and somebody may have a million.
        .where(tasks.c.owner_id + 0 == task_owner_id)
    )
    return int(connection.execute(query).scalar_one())


def set_score(
    connection: Connection, user_id: int, score: int, *, act: str, reason: str, start: int, now: float
) -> frozenset[int]:
    """The operator's word. `act` is the id of what the operator did: the same again changes nothing."""
    if not trust.within_bounds(score):
        raise InvalidInputError(
            f"a credit score is {trust.LOWEST_SCORE} to {trust.HIGHEST_SCORE}, not {score}"
        )
    change = NewChange(
        id=change_id(Cause.ADMIN, act),
        user_id=user_id,
        cause=Cause.ADMIN,
        reason=reason or MOVES[Cause.ADMIN].meaning,
    )
    there = lock_scores(connection, [change], now).get(user_id)
    if there is None:
        raise NotFoundError("there is no such user")
    if change.id in there.known:
        return NOBODY
    return put(connection, [credit_moves.set_to(there, score, change, start=start, now=now)], now)


def raised_by(
    connection: Connection, provider_ids: Collection[int], submitter_id: int, now: float
) -> frozenset[int]:
    """Those of these providers whose score a task of this user has raised within a day."""
    values = {
        "users": sorted(provider_ids),
        "submitter": submitter_id,
        "submitter_account": ledger.user_account(submitter_id),
        "since": now - trust.DAY_SECONDS,
    }
    return frozenset(connection.execute(_RAISED_BY_USER, values).scalars())


# -- with time ---------------------------------------------------------------------------------------
def drift_all(connection: Connection, *, start: int, now: float, limit: int) -> frozenset[int]:
    """Scores that nothing moved for long, brought nearer to the start value; of so many users at most."""
    due = (users.c.credit_score != start) & (users.c.credit_decayed_at <= now - trust.DRIFT_SECONDS)
    ids = connection.execute(select(users.c.id).where(due).order_by(users.c.id).limit(limit)).scalars().all()
    scores = [
        Score(user_id=row.id, score=row.credit_score, decayed_at=row.credit_decayed_at)
        for row in connection.execute(_LOCKED_SCORES, {"users": ids})
    ]
    return put(connection, [credit_moves.drifted(score, start, now) for score in scores], now)


def owners_of_stale_tasks(connection: Connection) -> frozenset[int]:
    """Who has unfinished tasks with another tier than the score opens now."""
    return frozenset(connection.execute(select(tasks.c.owner_id).where(_STALE).distinct()).scalars())


def retier(connection: Connection, user_id: int) -> None:
    """The user's unfinished tasks get the tier that the score opens now.

    A transaction of its own: rows of tasks are locked before those of users.
    """
    mine = _STALE & (tasks.c.owner_id == user_id)
    connection.execute(update(tasks).where(mine).values(tier=_TIER_OF_OWNER))


# -- shown -------------------------------------------------------------------------------------------
def history(connection: Connection, user_id: int, limit: int, before_seq: int = 0) -> Sequence[ScoreChange]:
    """What moved the user's score, newest first; only what is before `before_seq` where it is set."""
    query = select(*columns(ScoreChange, credit_changes)).where(credit_changes.c.user_id == user_id)
    if before_seq:
        query = query.where(credit_changes.c.seq < before_seq)
    rows = connection.execute(query.order_by(credit_changes.c.seq.desc()).limit(limit))
    return ScoreChange.from_rows(rows)
