"""Users' targets of notifications in SQL: names, URLs, and their keys as they were sealed.

Functions of a connection: the use case that calls them owns the transaction. Knows no key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from nodepool.domain.notifications.delivery import DeliveryState
from nodepool.domain.notifications.targets import TargetKind
from nodepool.stores.sql.tables import notify_targets as targets, users
from nodepool.stores.sql.typed_rows import FromRow, columns


@dataclass(frozen=True, slots=True)
class StoredTarget(FromRow):
    id: str
    user_id: int
    name: str
    kind: TargetKind
    url: str
    receiver: str
    sealed: bytes = field(repr=False)
    sealed_before: bytes | None = field(repr=False)
    before_until: float
    set_at: float
    confirmed_at: float | None
    wrong_codes: int
    told_at: float | None
    told_state: str  # one of DeliveryState; empty: nothing was ever sent
    told_words: str


_ALL = select(*columns(StoredTarget, targets))


def of_user(connection: Connection, user_id: int) -> Sequence[StoredTarget]:
    """By their names."""
    query = _ALL.where(targets.c.user_id == user_id).order_by(targets.c.name)
    return StoredTarget.from_rows(connection.execute(query))


def of_names(connection: Connection, user_id: int, names: Collection[str]) -> Sequence[StoredTarget]:
    """Those of them that there are."""
    query = _ALL.where(targets.c.user_id == user_id, targets.c.name.in_(sorted(names)))
    return StoredTarget.from_rows(connection.execute(query.order_by(targets.c.name)))


def find(connection: Connection, user_id: int, name: str) -> StoredTarget | None:
    query = _ALL.where(targets.c.user_id == user_id, targets.c.name == name)
    return StoredTarget.from_row_or_none(connection.execute(query).one_or_none())


def find_by_id(connection: Connection, target_id: str) -> StoredTarget | None:
    row = connection.execute(_ALL.where(targets.c.id == target_id)).one_or_none()
    return StoredTarget.from_row_or_none(row)


def lock(connection: Connection, user_id: int) -> None:
    """Nobody else sets targets of this user now, so that they can be counted."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))


def put(connection: Connection, target: StoredTarget) -> None:
    """A new one, or the same with other values."""
    values = {column.name: getattr(target, column.name) for column in targets.c}
    mine = targets.c.id == target.id, targets.c.user_id == target.user_id
    if not connection.execute(update(targets).where(*mine).values(values)).rowcount:
        connection.execute(insert(targets).values(values))


def remove(connection: Connection, user_id: int, name: str) -> bool:
    """Whether it was there."""
    mine = targets.c.user_id == user_id, targets.c.name == name
    return bool(connection.execute(delete(targets).where(*mine)).rowcount)


def confirm(connection: Connection, target_id: str, now: float) -> None:
    connection.execute(update(targets).where(targets.c.id == target_id).values(confirmed_at=now))


def count_wrong_code(connection: Connection, target_id: str) -> None:
    more = {"wrong_codes": targets.c.wrong_codes + 1}
    connection.execute(update(targets).where(targets.c.id == target_id).values(more))


def note_told(connection: Connection, target_id: str, state: DeliveryState, words: str, now: float) -> None:
    """What came of the newest try."""
    values = {"told_at": now, "told_state": state, "told_words": words}
    connection.execute(update(targets).where(targets.c.id == target_id).values(values))
