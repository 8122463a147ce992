"""What tasks keep in the file store, counted for each account, and given up where nobody needs it.

A package is counted once for each account that has a task which keeps it; a result for its task's owner.
Whether a package is needed is read off the tasks, never remembered. Rows of storage accounts are locked
after all others of a transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from nodepool.domain.errors import StorageBoundError
from nodepool.domain.tasks.reasons import STOPPED_FOR_OTHERS
from nodepool.domain.tasks.states import TaskKind
from nodepool.stores.sql.tables import KEEPS_PACKAGE, STORAGE_DUE, attempts, storage_accounts, tasks

_MIB = 1 << 20
_accounts = storage_accounts.c
_COUNTED = tasks.c.kind == TaskKind.USER
_STORED = select(_accounts.bytes).where(_accounts.user_id == bindparam("user_id"))
_STORED_LOCKED = _STORED.with_for_update()
_KEPT = (
    select(tasks.c.id)
    .where(tasks.c.package_sha256 == bindparam("sha256"), KEEPS_PACKAGE, tasks.c.id != bindparam("but"))
    .limit(1)
)
_KEPT_OF_OWNER = _KEPT.where(tasks.c.owner_id == bindparam("owner_id"), _COUNTED)
# Of a task with several runs `started_at` is that of the first; one task's attempts have their own.
_RAN = tasks.c.started_at.is_not(None) | (
    select(attempts.c.id).where(attempts.c.task_id == tasks.c.id, attempts.c.started_at.is_not(None)).exists()
)


@dataclass(frozen=True, slots=True)
class EndedTask:
    """`released` is the package that it gives up; empty where it keeps it. `result` and `logs`: attempts
    whose files of that kind are gone for SQL; empty where there is none to remove."""

    task_id: str
    released: str
    result: str = ""
    logs: tuple[str, ...] = ()


def stored_bytes(connection: Connection, user_id: int) -> int:
    return int(connection.execute(_STORED, {"user_id": user_id}).scalar_one_or_none() or 0)


def is_kept(connection: Connection, sha256: str, owner_id: int | None = None, but: str = "") -> bool:
    """Whether a task keeps the package: of anybody, or of this owner; `but` is not asked."""
    asked = {"sha256": sha256, "but": but}
    if owner_id is None:
        return connection.execute(_KEPT, asked).first() is not None
    return connection.execute(_KEPT_OF_OWNER, {**asked, "owner_id": owner_id}).first() is not None


def check_fits(connection: Connection, task: Mapping[str, Any], stored: int, bound: int) -> None:
    """Raises StorageBoundError where the package of the task, which is not there yet, is too much."""
    size, owner_id = task["package_bytes"], task["owner_id"]
    if stored + size > bound and (
        stored > bound or not is_kept(connection, task["package_sha256"], owner_id, task["id"])
    ):
        raise StorageBoundError(
            f"your tasks keep {_mib(stored)} of the {_mib(bound)} that your account may keep here, and the "
            f"package would add {_mib(size)}: delete tasks that have ended (hivemind rm TASK), send smaller "
            "packages, or the same one for several tasks, or ask the pool's operator for more"
        )


def add_package(connection: Connection, task: Mapping[str, Any], bound: int) -> None:
    """Count the package of a task that was just inserted. Raises StorageBoundError."""
    owner_id = task["owner_id"]
    stored = _lock(connection, owner_id)
    check_fits(connection, task, stored, bound)
    if not is_kept(connection, task["package_sha256"], owner_id, task["id"]):
        _add(connection, owner_id, task["package_bytes"])


def recount(connection: Connection, user_id: int) -> int:
    """What the account keeps, counted anew."""
    _lock(connection, user_id)
    mine = tasks.c.owner_id == user_id, _COUNTED
    packages = (
        select(tasks.c.package_sha256, func.max(tasks.c.package_bytes).label("bytes"))
        .where(*mine, KEEPS_PACKAGE)
        .group_by(tasks.c.package_sha256)
        .subquery()
    )
    of_packages = connection.execute(select(func.sum(packages.c.bytes))).scalar_one() or 0
    of_results = connection.execute(select(func.sum(tasks.c.stored_bytes)).where(*mine)).scalar_one() or 0
    stored = int(of_packages) + int(of_results)
    connection.execute(update(storage_accounts).where(_accounts.user_id == user_id).values(bytes=stored))
    return stored


def due(connection: Connection, limit: int) -> list[str]:
    """Tasks that have ended and whose storage was not looked at since, the oldest first."""
    query = select(tasks.c.id).where(STORAGE_DUE, tasks.c.finished_at.is_not(None))
    return list(connection.execute(query.order_by(tasks.c.finished_at).limit(limit)).scalars())


def settle(connection: Connection, task_ids: Sequence[str]) -> list[EndedTask]:
    """Count what these tasks keep now that they have ended. Those that were due, which stay so until they are
    `settled`; asked again it changes nothing."""
    return [_ended(connection, row) for row in _settle(connection, task_ids)]


def _ended(connection: Connection, row: Row[Any]) -> EndedTask:
    gone = row.files_removed_at > 0
    return EndedTask(
        row.id,
        row.package_sha256 if _gives_up(row) else "",
        result=row.result_attempt if gone else "",
        logs=_attempts_of(connection, row.id) if gone and not row.log_bytes else (),
    )


def _attempts_of(connection: Connection, task_id: str) -> tuple[str, ...]:
    """Of the task and of its runs."""
    family = select(tasks.c.id).where(or_(tasks.c.id == task_id, tasks.c.parent_id == task_id))
    return tuple(connection.execute(select(attempts.c.id).where(attempts.c.task_id.in_(family))).scalars())


def settled(connection: Connection, task_ids: Sequence[str]) -> None:
    """What these tasks need not keep is removed."""
    connection.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(storage_due=False))


def _settle(connection: Connection, task_ids: Sequence[str]) -> Sequence[Row[Any]]:
    query = (
        select(tasks, _RAN.label("ran"))
        .where(tasks.c.id.in_(task_ids), STORAGE_DUE, tasks.c.finished_at.is_not(None))
        .order_by(tasks.c.id)
        .with_for_update(of=tasks, skip_locked=True)
    )
    rows = connection.execute(query).all()
    added: dict[int, int] = defaultdict(int)
    for row in rows:
        counts = row.kind == TaskKind.USER
        stored = _stored(connection, row) if counts else 0
        values: dict[str, Any] = {}
        if stored != row.stored_bytes:
            values["stored_bytes"] = stored
            added[row.owner_id] += stored - row.stored_bytes
        if _gives_up(row) and row.keeps_package:
            values["keeps_package"] = False
        if values:
            connection.execute(update(tasks).where(tasks.c.id == row.id).values(values))
    _count_given_up(connection, rows, added)
    return rows


def _count_given_up(connection: Connection, rows: Sequence[Row[Any]], added: dict[int, int]) -> None:
    given = {
        (row.owner_id, row.package_sha256): row.package_bytes
        for row in rows
        if row.kind == TaskKind.USER and _gives_up(row) and row.keeps_package
    }
    for owner_id in sorted({*added, *(owner for owner, _ in given)}):
        _lock(connection, owner_id)
    for (owner_id, sha256), size in given.items():
        if not is_kept(connection, sha256, owner_id):
            added[owner_id] -= size
    for owner_id, amount in sorted(added.items()):
        _add(connection, owner_id, amount)


def _stored(connection: Connection, row: Row[Any]) -> int:
    """Its result, and output that is kept apart, its own and that of its runs."""
    if row.files_removed_at > 0:
        return int(row.log_bytes)
    of_runs = 0
    if row.replicas > 1:
        query = select(func.sum(tasks.c.log_bytes)).where(tasks.c.parent_id == row.id)
        of_runs = int(connection.execute(query).scalar_one() or 0)
    return (int(row.result_bytes) if row.result_attempt else 0) + int(row.log_bytes) + of_runs


def _gives_up(row: Row[Any]) -> bool:
    """A run of a task has its package from the task. A task keeps it with its files where one has run, and
    where it never ran and is likely to be done again: as a part of a job, or stopped for others."""
    if row.kind != TaskKind.USER or row.files_removed_at > 0:
        return True
    return not (row.ran or row.job_id or row.reason_code in STOPPED_FOR_OTHERS)


def _lock(connection: Connection, user_id: int) -> int:
    found = connection.execute(_STORED_LOCKED, {"user_id": user_id}).scalar_one_or_none()
    if found is None:
        try:
            with connection.begin_nested():
                connection.execute(insert(storage_accounts).values(user_id=user_id, bytes=0))
        except IntegrityError:
            return _lock(connection, user_id)
        return 0
    return int(found)


def _add(connection: Connection, user_id: int, amount: int) -> None:
    if amount:
        query = update(storage_accounts).where(_accounts.user_id == user_id)
        connection.execute(query.values(bytes=_accounts.bytes + amount))


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
