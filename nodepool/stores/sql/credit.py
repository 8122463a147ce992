"""Credit scores in SQL: every change is a row with its reason, and a repeat of an event changes nothing.

Functions of a connection: the use case that calls them owns the transaction. They lock rows of users, each
after the rows of tasks and the ledger's head (see ledger_move), several in the order of their ids. What
they return are the users whose tier has changed; `Lifecycle.sync_nodes_of` tells everybody of those, after
the commit.

An event that moves nothing, because its cause has reached its bound for the day, leaves no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, bindparam, case, func, insert, select, update

from nodepool.domain.errors import InvalidInputError, NotFoundError
from nodepool.domain.nodes import history as node_history
from nodepool.domain.tasks.states import FINAL_TASK_STATES, Outcome, TaskKind, TaskState
from nodepool.domain.trust import credit as trust, tiers
from nodepool.domain.trust.credit import MOVES, Cause
from nodepool.domain.trust.tiers import Tier, task_tier
from nodepool.domain.trust.voting import Finding
from nodepool.stores.sql.tables import credit_changes, tasks, users

if TYPE_CHECKING:
    from nodepool.stores.sql.tasks import End, Ended

_MAX_REASON = 500
_LIVE_STATES = [state.value for state in TaskState if state not in FINAL_TASK_STATES]
NOBODY: frozenset[int] = frozenset()

_TODAY = (
    select(func.coalesce(func.sum(credit_changes.c.delta), 0))
    .where(
        credit_changes.c.user_id == users.c.id,
        credit_changes.c.kind == bindparam("kind"),
        credit_changes.c.created_at > bindparam("since"),
    )
    .scalar_subquery()
)
_USER = select(users.c.credit_score, users.c.credit_decayed_at, _TODAY.label("moved_today")).where(
    users.c.id == bindparam("user")
)
# SQLite has one writer anyway, and leaves the lock out. Rows that refer to the user may still be added.
_LOCK = (
    select(users.c.credit_score, users.c.credit_decayed_at)
    .where(users.c.id == bindparam("user"))
    .with_for_update(key_share=True)
)
_THERE = select(credit_changes.c.seq).where(credit_changes.c.id == bindparam("change"))
_INSERT = insert(credit_changes)
_UPDATE = (
    update(users)
    .where(users.c.id == bindparam("user"), users.c.credit_score == bindparam("before"))
    .values(credit_score=bindparam("after"), credit_decayed_at=bindparam("decayed_at"))
)
# One person's tasks say only so much of whoever runs them.
_OF_THIS_USER = (
    select(credit_changes.c.seq)
    .join(tasks, tasks.c.id == credit_changes.c.task_id)
    .where(
        credit_changes.c.user_id == bindparam("user"),
        credit_changes.c.kind == Cause.VERIFIED,
        credit_changes.c.created_at > bindparam("since"),
        tasks.c.owner_id == bindparam("submitter"),
    )
    .limit(1)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChange:
    """Something happened that may move the user's score. `id` is of the event: see `change_id`."""

    id: str
    user_id: int
    cause: Cause
    reason: str
    task_id: str = ""
    node_id: str = ""


def change_id(cause: Cause, event: str) -> str:
    return f"{cause}:{event}"


def move(connection: Connection, changes: Iterable[NewChange], *, start: int, now: float) -> frozenset[int]:
    """Bring the scores up to date with what happened. `start`: what scores drift to."""
    # Most move nothing, and then nobody's row is locked.
    moving = [change for change in changes if _delta(connection, change, start, now)]
    moving.sort(key=lambda it: it.user_id)
    return frozenset([it.user_id for it in moving if _move(connection, it, start, now)])


def _move(connection: Connection, change: NewChange, start: int, now: float) -> bool:
    """True when it took the user to another tier."""
    row = _locked(connection, change.user_id)
    if connection.execute(_THERE, {"change": change.id}).first() is not None:
        return False
    drifted, decayed_at = _drift(connection, change.user_id, row, start, now)
    delta = _delta(connection, change, start, now, score=drifted)
    if delta:
        _add_row(connection, change, delta, drifted + delta, now)
    _set(connection, change.user_id, row, drifted + delta, decayed_at)
    return task_tier(row.credit_score) is not task_tier(drifted + delta)


def _delta(
    connection: Connection, change: NewChange, start: int, now: float, *, score: int | None = None
) -> int:
    values = {"user": change.user_id, "kind": change.cause.value, "since": now - trust.DAY_SECONDS}
    row = connection.execute(_USER, values).one_or_none()
    if row is None:
        return 0
    before = row.credit_score if score is None else score
    return trust.change_of(change.cause, before, moved_today=int(row.moved_today), start=start)


def _locked(connection: Connection, user_id: int) -> Row[int, float]:
    for row in connection.execute(_LOCK, {"user": user_id}):
        return row
    raise NotFoundError("there is no such user")


def _drift(
    connection: Connection, user_id: int, row: Row[int, float], start: int, now: float
) -> tuple[int, float]:
    """The score as the time that passed has left it, and since when the next point counts."""
    points, decayed_at = trust.drift(row.credit_score, row.credit_decayed_at, now, start)
    score = int(row.credit_score) + points
    if points:
        change = NewChange(
            id=change_id(Cause.DECAY, f"{user_id}:{decayed_at:.0f}"),
            user_id=user_id,
            cause=Cause.DECAY,
            reason=MOVES[Cause.DECAY].meaning,
        )
        _add_row(connection, change, points, score, now)
    return score, decayed_at


def _add_row(connection: Connection, change: NewChange, delta: int, after: int, now: float) -> None:
    connection.execute(
        _INSERT,
        {
            "id": change.id,
            "user_id": change.user_id,
            "kind": change.cause.value,
            "delta": delta,
            "score_after": after,
            "reason": change.reason[:_MAX_REASON],
            "task_id": change.task_id,
            "node_id": change.node_id,
            "created_at": now,
        },
    )


def _set(connection: Connection, user_id: int, row: Row[int, float], score: int, decayed_at: float) -> None:
    connection.execute(
        _UPDATE,
        {"user": user_id, "before": row.credit_score, "after": score, "decayed_at": decayed_at},
    )


def set_score(
    connection: Connection, user_id: int, score: int, *, act: str, reason: str, start: int, now: float
) -> frozenset[int]:
    """The operator's word. `act` is the id of what the operator did: the same again changes nothing."""
    if not trust.within_bounds(score):
        raise InvalidInputError(
            f"a credit score is {trust.LOWEST_SCORE} to {trust.HIGHEST_SCORE}, not {score}"
        )
    row = _locked(connection, user_id)
    change = NewChange(
        id=change_id(Cause.ADMIN, act),
        user_id=user_id,
        cause=Cause.ADMIN,
        reason=reason or MOVES[Cause.ADMIN].meaning,
    )
    if connection.execute(_THERE, {"change": change.id}).first() is not None:
        return NOBODY
    drifted, decayed_at = _drift(connection, user_id, row, start, now)
    _add_row(connection, change, score - drifted, score, now)
    _set(connection, user_id, row, score, decayed_at)
    return frozenset({user_id}) if task_tier(score) is not task_tier(row.credit_score) else NOBODY


# -- what the end of a run is worth --------------------------------------------------------------------
def after_end(
    connection: Connection, ended: Ended, end: End, provider_id: int, *, start: int, now: float
) -> frozenset[int]:
    """Called in the transaction that ends an attempt, when it has changed something."""
    change = _of_end(ended, end, provider_id)
    if change is None or not _delta(connection, change, start, now):
        return NOBODY
    return move(connection, [change], start=start, now=now)


def _of_end(ended: Ended, end: End, provider_id: int) -> NewChange | None:
    row = ended.task
    # Whoever runs his own tasks could end them as he likes; the pool's probes are judged by themselves.
    if provider_id == row.owner_id or row.kind == TaskKind.PROBE or end.blameless:
        return None
    if end.is_idleness:
        return _change(Cause.IDLE, row, provider_id, MOVES[Cause.IDLE].meaning)
    if end.late:
        return _change(Cause.LATE, row, provider_id, f"it did not end its run: {end.reason}")
    if end.outcome in {Outcome.LOST, Outcome.REFUSED}:
        handed_back = node_history.is_handed_back(
            end.outcome, draining=row.node_draining, active=row.node_active
        )
        # A task that was lost or refused before is itself under suspicion.
        if handed_back or row.stop_requested or row.attempts_ended:
            return None
        cause = Cause.LOST if end.outcome is Outcome.LOST else Cause.REFUSED
        return _change(cause, row, provider_id, f"{cause}: {end.reason}")
    return None  # what a result is worth, a comparison that the pool chose says


def _change(cause: Cause, row: Row[Any], provider_id: int, reason: str) -> NewChange:
    return NewChange(
        id=change_id(cause, row.attempt_id),
        user_id=provider_id,
        cause=cause,
        reason=reason,
        task_id=row.id,
        node_id=row.attempt_node,
    )


def of_finding(
    finding: Finding, *, attempt_id: str, task_id: str, node_id: str, provider_id: int, task_owner_id: int
) -> list[NewChange]:
    """What the comparison of a run is worth, for `move`; nothing where it says nothing, or of one's own."""
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


def moved_by(connection: Connection, provider_id: int, submitter_id: int, now: float) -> bool:
    """Whether a task of this user has raised the provider's score within a day."""
    values = {"user": provider_id, "submitter": submitter_id, "since": now - trust.DAY_SECONDS}
    return connection.execute(_OF_THIS_USER, values).first() is not None


# -- with time ---------------------------------------------------------------------------------------
def drift_all(connection: Connection, *, start: int, now: float, limit: int) -> frozenset[int]:
    """Scores that nothing moved for long, brought nearer to the start value; of so many users at most."""
    due = (users.c.credit_score != start) & (users.c.credit_decayed_at <= now - trust.DRIFT_SECONDS)
    ids = connection.execute(select(users.c.id).where(due).order_by(users.c.id).limit(limit)).scalars()
    changed = set()
    for user_id in ids.all():
        row = _locked(connection, user_id)
        score, decayed_at = _drift(connection, user_id, row, start, now)
        _set(connection, user_id, row, score, decayed_at)
        if task_tier(score) is not task_tier(row.credit_score):
            changed.add(user_id)
    return frozenset(changed)


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
def history(connection: Connection, user_id: int, limit: int, before_seq: int = 0) -> Sequence[Row[Any]]:
    """The user's rows of credit_changes, newest first; only those before `before_seq` where it is set."""
    query = select(credit_changes).where(credit_changes.c.user_id == user_id)
    if before_seq:
        query = query.where(credit_changes.c.seq < before_seq)
    return connection.execute(query.order_by(credit_changes.c.seq.desc()).limit(limit)).all()
