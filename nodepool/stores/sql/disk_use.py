"""What the tables keep, counted for the operator: for whom, and what would go. Reads only, and all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, text

from nodepool.domain.tasks.states import TaskKind
from nodepool.stores.sql import removal
from nodepool.stores.sql.tables import (
    KEEPS_PACKAGE,
    attempts,
    credit_changes,
    holds,
    ledger_entries,
    nodes,
    probes,
    storage_accounts,
    tasks,
    users,
)


@dataclass(frozen=True, slots=True)
class Things:
    """Of one kind; rows have no bytes."""

    kind: str
    count: int
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class StorageOfUser:
    username: str
    credit_score: int
    stored_bytes: int
    tasks: int


_ROWS = (
    ("tasks", tasks),
    ("attempts", attempts),
    ("holds", holds),
    ("ledger entries", ledger_entries),
    ("credit changes", credit_changes),
    ("probes", probes),
    ("nodes", nodes),
    ("accounts", users),
)


def kept(connection: Connection) -> list[Things]:
    packages = (
        select(func.max(tasks.c.package_bytes).label("bytes"))
        .where(KEEPS_PACKAGE)
        .group_by(tasks.c.package_sha256)
        .subquery()
    )
    all_packages: Select[*tuple[Any, ...]] = select(func.count(), func.sum(packages.c.bytes))
    results: Select[*tuple[Any, ...]] = select(func.count(), func.sum(tasks.c.result_bytes)).where(
        tasks.c.result_attempt != "", tasks.c.files_removed_at == 0, tasks.c.kind == TaskKind.USER
    )
    outputs: Select[*tuple[Any, ...]] = select(func.count(), func.sum(tasks.c.log_bytes)).where(
        tasks.c.log_bytes > 0
    )
    rows = [
        Things(kind, connection.execute(select(func.count()).select_from(table)).scalar_one())
        for kind, table in _ROWS
    ]
    return [
        _things(connection, "packages", all_packages),
        _things(connection, "results", results),
        _things(connection, "outputs", outputs),
        *rows,
    ]


def would_go(
    connection: Connection, *, results: float | None, outputs: float | None, whole: float | None
) -> list[Things]:
    """What is due of tasks that ended before these times; None: nothing is."""
    found = []
    if results is not None:
        found.append(_things(connection, "results", removal.count_with_files(results)))
    if outputs is not None:
        found.append(_things(connection, "outputs", removal.count_with_logs(outputs)))
    if whole is not None:
        found.append(_things(connection, "tasks", removal.count_old(whole)))
    return found


def by_user(connection: Connection, limit: int) -> list[StorageOfUser]:
    """Those who keep most."""
    count = (
        select(func.count())
        .where(tasks.c.owner_id == users.c.id, tasks.c.kind == TaskKind.USER, tasks.c.deleted_at == 0)
        .scalar_subquery()
    )
    query = (
        select(users.c.username, users.c.credit_score, storage_accounts.c.bytes, count)
        .join(users, users.c.id == storage_accounts.c.user_id)
        .where(storage_accounts.c.bytes > 0)
        .order_by(storage_accounts.c.bytes.desc(), users.c.username)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    return [StorageOfUser(row[0], int(row[1]), int(row[2]), int(row[3])) for row in rows]


def database_bytes(connection: Connection) -> tuple[int, int]:
    """How large the database is, and how much of that is written again before it grows."""
    if connection.dialect.name != "sqlite":
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()), 0
    page, pages, free = (
        int(connection.execute(text(f"PRAGMA {name}")).scalar_one())
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * pages, page * free


def _things(connection: Connection, kind: str, query: Select[*tuple[Any, ...]]) -> Things:
    row = connection.execute(query).one()
    return Things(kind, int(row[0]), int(row[1] or 0))
