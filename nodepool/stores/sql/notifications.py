"""What is to be sent to people's targets, was sent, or was given up: the outbox, in SQL.

A row is written in one transaction with the note at its task or job that it is there, and from then on it is
tried until it is sent or given up. Who tries takes it first: until `due_at` nobody else does, and a sender
that is gone by then has lost it. Functions of a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, text, update

from nodepool.domain.notifications.delivery import DeliveryState, NotificationKind
from nodepool.domain.notifications.turns import Due, turn_of
from nodepool.stores.sql.tables import notifications
from nodepool.stores.sql.typed_rows import FromRow, columns

# As the index has it, word for word.
_WAITING = text("notifications.state = 'waiting'")
_CODES = text("notifications.kind = 'code'")
_ENDED = text("notifications.ended_at IS NOT NULL")


@dataclass(frozen=True, slots=True)
class StoredNotification(FromRow):
    id: str
    user_id: int
    target_id: str
    target: str
    receiver: str
    kind: NotificationKind
    subject_id: str
    body: str
    state: DeliveryState
    tries: int
    created_at: float
    first_due_at: float
    due_at: float
    ended_at: float | None
    words: str


_ALL = select(*columns(StoredNotification, notifications))


def add(connection: Connection, notification: StoredNotification) -> None:
    values = {column.name: getattr(notification, column.name) for column in notifications.c}
    connection.execute(insert(notifications).values(values))


def find(connection: Connection, notification_id: str) -> StoredNotification | None:
    row = connection.execute(_ALL.where(notifications.c.id == notification_id)).one_or_none()
    return StoredNotification.from_row_or_none(row)


def of_subject(connection: Connection, user_id: int, subject_id: str) -> Sequence[StoredNotification]:
    """Of a task or job, by their targets."""
    mine = notifications.c.subject_id == subject_id, notifications.c.user_id == user_id
    query = _ALL.where(*mine).order_by(notifications.c.target, notifications.c.created_at)
    return StoredNotification.from_rows(connection.execute(query))


def first_due_before(connection: Connection, user_id: int, count: int) -> float | None:
    """When the one is first due that is so many before a user's next one; None: there are not so many."""
    due = notifications.c.first_due_at
    query = select(due).where(notifications.c.user_id == user_id).order_by(due.desc())
    return connection.execute(query.offset(count - 1).limit(1)).scalar_one_or_none()


def count_codes(connection: Connection, receiver: str, since: float) -> int:
    """Codes that were to be mailed to this address since then."""
    query = select(func.count(notifications.c.id)).where(
        _CODES, notifications.c.receiver == receiver, notifications.c.created_at >= since
    )
    return connection.execute(query).scalar_one()


def count_codes_of(connection: Connection, user_id: int, since: float) -> int:
    """The same for this user, to whatever addresses."""
    query = select(func.count(notifications.c.id)).where(
        _CODES, notifications.c.user_id == user_id, notifications.c.first_due_at >= since
    )
    return connection.execute(query).scalar_one()


# -- who sends ------------------------------------------------------------------------------------------
def is_due(connection: Connection, now: float) -> bool:
    query = select(notifications.c.id).where(_WAITING, notifications.c.due_at <= now).limit(1)
    return connection.execute(query).first() is not None


def due(connection: Connection, now: float, *, of_one: int, limit: int) -> list[Due]:
    """Those that may be tried, the longest due first, and no more than so many of a user or to a receiver."""
    columns_ = notifications.c.id, notifications.c.user_id, notifications.c.receiver
    order = notifications.c.due_at
    number = func.row_number()
    found = (
        select(
            *columns_,
            order,
            number.over(partition_by=notifications.c.user_id, order_by=order).label("of_user"),
            number.over(partition_by=notifications.c.receiver, order_by=order).label("of_receiver"),
        )
        .where(_WAITING, order <= now)
        .subquery()
    )
    query = (
        select(found.c.id, found.c.user_id, found.c.receiver)
        .where(found.c.of_user <= of_one, found.c.of_receiver <= of_one)
        .order_by(found.c.due_at)
        .limit(limit)
    )
    return [Due(row.id, row.user_id, turn_of(row.receiver)) for row in connection.execute(query)]


def take(
    connection: Connection, notification_id: str, now: float, *, until: float
) -> StoredNotification | None:
    """For the one who may try it now, with this try counted; None for everybody else."""
    mine = notifications.c.id == notification_id, _WAITING, notifications.c.due_at <= now
    values = {"due_at": until, "tries": notifications.c.tries + 1}
    taken = connection.execute(update(notifications).where(*mine).values(values)).rowcount
    return find(connection, notification_id) if taken else None


def end(connection: Connection, notification_id: str, state: DeliveryState, words: str, now: float) -> bool:
    """It was sent, or is not tried any more. Whether it was still to be sent."""
    mine = notifications.c.id == notification_id, _WAITING
    values = {"state": state, "words": words, "ended_at": now}
    return bool(connection.execute(update(notifications).where(*mine).values(values)).rowcount)


def try_again(connection: Connection, notification_id: str, tries: int, words: str, *, at: float) -> None:
    """What this try came to. Where another one has begun since, that decides."""
    mine = notifications.c.id == notification_id, _WAITING, notifications.c.tries == tries
    connection.execute(update(notifications).where(*mine).values(due_at=at, words=words))


def count_waiting(connection: Connection) -> int:
    return connection.execute(select(func.count(notifications.c.id)).where(_WAITING)).scalar_one()


def remove_old(connection: Connection, before: float, limit: int) -> int:
    """Those that came to their end before that, the oldest first."""
    query = select(notifications.c.id).where(_ENDED, notifications.c.ended_at < before)
    ids = list(connection.execute(query.order_by(notifications.c.ended_at).limit(limit)).scalars())
    if ids:
        connection.execute(delete(notifications).where(notifications.c.id.in_(ids)))
    return len(ids)
