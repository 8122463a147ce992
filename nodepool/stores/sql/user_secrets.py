"""Users' secrets in SQL: their names, when they were set, and their values as they were sealed.

Functions of a connection: the use case that calls them owns the transaction. Knows no key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, func, insert, select, update

from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql.tables import tasks, user_secrets, users
from nodepool.stores.sql.typed_rows import FromRow, columns

_NOT_BEGUN = [TaskState.QUEUED.value, TaskState.PLACED.value]
# So many tasks are counted; of more it is said that there are more.
MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class StoredSecret(FromRow):
    name: str
    sealed: bytes = field(repr=False)
    value_bytes: int
    set_at: float


def of_user(connection: Connection, user_id: int) -> Sequence[StoredSecret]:
    """By their names."""
    query = select(*columns(StoredSecret, user_secrets)).where(user_secrets.c.user_id == user_id)
    return StoredSecret.from_rows(connection.execute(query.order_by(user_secrets.c.name)))


def of_names(connection: Connection, user_id: int, names: Collection[str]) -> dict[str, StoredSecret]:
    """Those of them that there are."""
    query = select(*columns(StoredSecret, user_secrets)).where(
        user_secrets.c.user_id == user_id, user_secrets.c.name.in_(sorted(names))
    )
    return {secret.name: secret for secret in StoredSecret.from_rows(connection.execute(query))}


def sizes(connection: Connection, user_id: int) -> dict[str, int]:
    """How many bytes each has, by its name."""
    query = select(user_secrets.c.name, user_secrets.c.value_bytes).where(user_secrets.c.user_id == user_id)
    return {row.name: row.value_bytes for row in connection.execute(query)}


def put(connection: Connection, user_id: int, secret: StoredSecret) -> bool:
    """Whether one of this name was there, whose place it has taken."""
    values = {"sealed": secret.sealed, "value_bytes": secret.value_bytes, "set_at": secret.set_at}
    mine = user_secrets.c.user_id == user_id, user_secrets.c.name == secret.name
    if connection.execute(update(user_secrets).where(*mine).values(values)).rowcount:
        return True
    connection.execute(insert(user_secrets).values(user_id=user_id, name=secret.name, **values))
    return False


def lock(connection: Connection, user_id: int) -> None:
    """Nobody else sets secrets of this user now, so that they can be counted."""
    connection.execute(select(users.c.id).where(users.c.id == user_id).with_for_update(key_share=True))


def remove(connection: Connection, user_id: int, name: str) -> bool:
    """Whether it was there."""
    mine = user_secrets.c.user_id == user_id, user_secrets.c.name == name
    return bool(connection.execute(delete(user_secrets).where(*mine)).rowcount)


def count_waiting(connection: Connection, user_id: int, name: str) -> int:
    """How many of the user's tasks that have not begun are to be given it; at most MOST_COUNTED."""
    # As run_inputs.mapping_to_json writes a value.
    told = tasks.c.secrets.contains(f':"{name}"', autoescape=True)
    with_it = tasks.c.secrets != "", tasks.c.owner_id == user_id, tasks.c.state.in_(_NOT_BEGUN), told
    some = (
        select(tasks.c.id).where(*with_it, tasks.c.parent_id.concat("") == "").limit(MOST_COUNTED).subquery()
    )
    return connection.execute(select(func.count()).select_from(some)).scalar_one()
