"""What the operator asks of SQL: users as they stand, and the record of what operators did.

Functions of a connection: the use case that calls them owns the transaction, so that an act and its
record are there together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, func, insert, select, update

from nodepool.domain.money.ledger import HoldState
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskState
from nodepool.events.catalogue import AdminActed
from nodepool.stores.sql import users as user_store
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.tables import admin_acts, holds, ledger_accounts, nodes, tasks, users
from nodepool.stores.sql.typed_rows import FromRow, columns
from nodepool.stores.sql.users import SYSTEM_ROLE

_UNFINISHED = [state.value for state in TaskState if state not in FINAL_TASK_STATES]


@dataclass(frozen=True, slots=True)
class RecordedAct(FromRow):
    """What an operator did; `detail` is JSON."""

    seq: int
    admin: str
    action: str
    subject: str
    detail: str
    created_at: float


@dataclass(frozen=True, slots=True)
class UserOverview(FromRow):
    """A user with what they have, hold and run."""

    username: str
    role: str
    credit_score: int
    blocked: bool
    created_at: float
    balance: int
    held: int
    nodes: int
    unfinished_tasks: int


def record(
    connection: Connection, admin: str, action: str, subject: str, detail: Mapping[str, Any], now: float
) -> None:
    """Keep what an operator did; the detail is kept as JSON."""
    told = json.dumps(detail, ensure_ascii=False, sort_keys=True)
    connection.execute(
        insert(admin_acts).values(admin=admin, action=action, subject=subject, detail=told, created_at=now)
    )
    note(connection, AdminActed(admin=admin, act=action, subject=subject, detail=told))


def acts(connection: Connection, limit: int, before_seq: int) -> Sequence[RecordedAct]:
    """Newest first."""
    query = select(*columns(RecordedAct, admin_acts))
    if before_seq > 0:
        query = query.where(admin_acts.c.seq < before_seq)
    rows = connection.execute(query.order_by(admin_acts.c.seq.desc()).limit(limit))
    return RecordedAct.from_rows(rows)


def set_blocked(connection: Connection, user_id: int, *, blocked: bool) -> bool:
    """True when it was otherwise before. A blocked user's tokens end for good."""
    changed = connection.execute(
        update(users).where(users.c.id == user_id, users.c.blocked.is_not(blocked)).values(blocked=blocked)
    )
    if changed.rowcount and blocked:
        user_store.end_tokens(connection, user_id)
    return bool(changed.rowcount)


def page_of_users(connection: Connection, limit: int, after: str, contains: str) -> Sequence[UserOverview]:
    """Users by name, with what they have, hold and run. The pool's own users are not among them."""
    held = (
        select(func.coalesce(func.sum(holds.c.amount - holds.c.posted), 0))
        .where(holds.c.account_id == ledger_accounts.c.id, holds.c.state == HoldState.HELD)
        .scalar_subquery()
    )
    own_nodes = select(func.count()).where(nodes.c.owner_id == users.c.id, nodes.c.active).scalar_subquery()
    unfinished = (
        select(func.count())
        .where(
            tasks.c.owner_id == users.c.id, tasks.c.state.in_(_UNFINISHED), tasks.c.parent_id.concat("") == ""
        )
        .scalar_subquery()
    )
    query = (
        select(
            *columns(
                UserOverview,
                users,
                ledger_accounts,
                held=cast(held, BigInteger),  # PostgreSQL sums to a numeric
                nodes=own_nodes,
                unfinished_tasks=unfinished,
            )
        )
        .join(ledger_accounts, ledger_accounts.c.user_id == users.c.id)
        .where(users.c.username > after, users.c.role != SYSTEM_ROLE)
    )
    if contains:
        query = query.where(users.c.username.contains(contains, autoescape=True))
    return UserOverview.from_rows(connection.execute(query.order_by(users.c.username).limit(limit)))


def mark_stopped(connection: Connection, task_id: str) -> None:
    """Where nobody has asked for its end yet, it is the operator who does."""
    connection.execute(
        update(tasks)
        .where(tasks.c.id == task_id, tasks.c.state.in_(_UNFINISHED), tasks.c.stop_requested.is_(False))
        .values(stopped_by_operator=True)
    )


def unfinished_of(connection: Connection, owner_id: int) -> Sequence[str]:
    """Ids of what the user has not seen the end of yet, without the pool's further runs of it."""
    query = select(tasks.c.id).where(
        tasks.c.owner_id == owner_id, tasks.c.state.in_(_UNFINISHED), tasks.c.parent_id.concat("") == ""
    )
    return connection.execute(query).scalars().all()
