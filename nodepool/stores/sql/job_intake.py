"""A job's tasks on their way into SQL: in pieces, each a short transaction, seen by nobody before the last.

While a job is not accepted its tasks are there for nobody: no list has them, and no dispatcher is told. Who
puts them in holds the job by a token and renews it with each piece; what somebody left behind is dropped and
begun anew. Functions of a connection: the use case that calls them owns the transactions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Insert,
    Integer,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from nodepool.domain.errors import AlreadyExistsError, StateConflictError, UnavailableError
from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.stores.sql import job_steps
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.tables import jobs, task_labels, tasks
from nodepool.stores.sql.typed_rows import columns

# Who has not put a piece in for so long does not do it any more.
PATIENCE_SECONDS = 30.0
_INSERT_JOB = insert(jobs)
_ITEMS, _PREFIX = bindparam("items", type_=Text), bindparam("prefix", type_=Text)
_FIRST = bindparam("first", type_=Integer)


class Begin(Enum):
    NEW = "new"
    REPEATED = "repeated"  # it was accepted before


@dataclass(frozen=True, slots=True)
class Naming:
    """How tasks of a piece are called and numbered: by `prefix` and their index, or, where there is one task
    alone, by the prefix; in the job they begin with `first_index`."""

    prefix: str
    first_index: int = 0
    is_one: bool = False


def begin(connection: Connection, row: Mapping[str, Any], now: float) -> Begin:
    """Take the id for this job. Raises AlreadyExistsError for one that is another's, and UnavailableError
    while somebody else puts the same in. What an earlier try left is dropped first (`left_behind`)."""
    found = find_any(connection, row["id"])
    if found is None:
        try:
            connection.execute(_INSERT_JOB, {**row, "created_at": now, "renewed_at": now})
        except IntegrityError as error:
            raise _taken(row["id"]) from error
        return Begin.NEW
    check_same(found, row["owner_id"], row["digest"])
    if found.accepted_at is not None:
        return Begin.REPEATED
    raise UnavailableError(f"job {row['id']} is just being accepted; try again in a moment")


def check_same(found: StoredJob, owner_id: int, digest: str) -> None:
    """Raises AlreadyExistsError where the job of this id is another one."""
    if found.owner_id != owner_id or (found.accepted_at is not None and found.digest != digest):
        raise _taken(found.id)


def first_id(job_id: str, piece: str) -> str:
    """Of the first task of this piece."""
    return task_id(job_id, int(json.loads(piece)[0][0]))


def first_named(naming: Naming, piece: str) -> str:
    """Of the first task of a step of which this is the first piece."""
    return naming.prefix if naming.is_one else f"{naming.prefix}{int(json.loads(piece)[0][0])}"


def task_id(job_id: str, index: int) -> str:
    return f"{job_id}.{index}"


def left_behind(connection: Connection, job_id: str, owner_id: int, now: float) -> bool:
    """Whether there is something of the owner's job that nobody puts in any more."""
    found = find_any(connection, job_id)
    return (
        found is not None
        and found.owner_id == owner_id
        and found.accepted_at is None
        and found.renewed_at < now - PATIENCE_SECONDS
    )


def all_left_behind(connection: Connection, now: float, limit: int) -> list[str]:
    unaccepted = jobs.c.accepted_at.is_(None), jobs.c.renewed_at < now - PATIENCE_SECONDS
    query = select(jobs.c.id).where(jobs.c.ended_at.is_(None), *unaccepted)
    return list(connection.execute(query.limit(limit)).scalars())


def find_any(connection: Connection, job_id: str) -> StoredJob | None:
    """Accepted or not."""
    query = select(*columns(StoredJob, jobs)).where(jobs.c.id == job_id)
    return StoredJob.from_row_or_none(connection.execute(query).one_or_none())


def put_in(
    connection: Connection,
    job_id: str,
    holder: str,
    row: Mapping[str, Any],
    piece: str,
    now: float,
    naming: Naming | None = None,
) -> None:
    """Tasks with the columns of `row`, and of `piece` (see arrays.expand) what differs.

    Raises AlreadyExistsError where one of their ids is taken, and StateConflictError where somebody else has
    the job by now.
    """
    renewed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.holder == holder, jobs.c.accepted_at.is_(None))
        .values(renewed_at=now)
    )
    if renewed.rowcount != 1:
        raise StateConflictError(f"job {job_id} is accepted elsewhere; ask for it again")
    is_sqlite = connection.dialect.name == "sqlite"
    named = naming or Naming(f"{job_id}.")
    told = {"items": piece, "prefix": named.prefix}
    values = {**row, "job_id": job_id, **told, "first": named.first_index}
    try:
        connection.execute(_insert_tasks(is_sqlite, named.is_one, tuple(sorted({*row, "job_id"}))), values)
    except IntegrityError as error:
        raise AlreadyExistsError(
            f"there are tasks whose ids begin with {job_id}. already; choose another job_id"
        ) from error
    for key, value in mapping_from_json(row["labels"]).items():
        label = {"key": key, "value": value, "owner_id": row["owner_id"], "created_at": row["created_at"]}
        connection.execute(_insert_labels(is_sqlite, named.is_one), {**label, **told})


@lru_cache(maxsize=8)
def _insert_tasks(is_sqlite: bool, is_one: bool, names: tuple[str, ...]) -> Insert:  # noqa: FBT001 - keys of the cache
    """The database takes the piece apart itself: the interpreter is others' meanwhile."""
    item, index, word = _pieces(is_sqlite)
    return insert(tasks).from_select(
        ["id", "job_index", "arguments", "environment", *names],
        select(
            _id(index, is_one),
            index + _FIRST,
            word(1),
            word(2),
            *(bindparam(name, type_=tasks.c[name].type) for name in names),
        ).select_from(item),
    )


def _id(index: Any, is_one: bool) -> Any:  # noqa: FBT001
    return _PREFIX if is_one else _PREFIX.concat(cast(index, Text))


@lru_cache(maxsize=4)
def _insert_labels(is_sqlite: bool, is_one: bool) -> Insert:  # noqa: FBT001
    item, index, _ = _pieces(is_sqlite)
    names = ("key", "value", "owner_id", "created_at")
    given = (bindparam(name, type_=task_labels.c[name].type) for name in names)
    return insert(task_labels).from_select(
        ["task_id", *names], select(_id(index, is_one), *given).select_from(item)
    )


def _pieces(is_sqlite: bool) -> tuple[Any, Any, Any]:  # noqa: FBT001
    if is_sqlite:
        item: Any = func.json_each(_ITEMS).table_valued("value", name="item")
        return (
            item,
            cast(func.json_extract(item.c.value, literal("$[0]")), Integer),
            lambda number: func.json_extract(item.c.value, literal(f"$[{number}]")),
        )
    item = func.json_array_elements(cast(_ITEMS, JSON)).table_valued("value", name="item")
    return (
        item,
        cast(item.c.value.op("->>")(literal(0, Integer)), Integer),
        lambda number: item.c.value.op("->>", return_type=Text())(literal(number, Integer)),
    )


def accept(connection: Connection, job_id: str, holder: str, now: float) -> None:
    """All of its tasks are in: from now on they are there for everybody. Raises StateConflictError."""
    done = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.holder == holder, jobs.c.accepted_at.is_(None))
        .values(accepted_at=now, renewed_at=now, hinted_at=now)
    )
    if done.rowcount != 1:
        raise StateConflictError(f"job {job_id} is accepted elsewhere; ask for it again")


def take_over(connection: Connection, job_id: str, holder: str, now: float, *, before: float) -> bool:
    """Nobody else puts this job in from now on; it was not renewed since `before`."""
    mine = jobs.c.id == job_id, jobs.c.accepted_at.is_(None)
    stale = jobs.c.renewed_at < before
    done = connection.execute(update(jobs).where(*mine, stale).values(holder=holder, renewed_at=now))
    return done.rowcount == 1


def drop_some(connection: Connection, job_id: str, holder: str, limit: int, now: float) -> bool:
    """Tasks of a job that was never accepted, and at the end the job; False when nothing is left."""
    mine = jobs.c.id == job_id, jobs.c.holder == holder, jobs.c.accepted_at.is_(None)
    if connection.execute(update(jobs).where(*mine).values(renewed_at=now)).rowcount != 1:
        return False
    # The empty id is no job's: said, so that the partial index is taken.
    some = select(tasks.c.id).where(tasks.c.job_id == job_id, tasks.c.job_id != "").limit(limit)
    ids = list(connection.execute(some).scalars())
    if ids:
        connection.execute(delete(task_labels).where(task_labels.c.task_id.in_(ids)))
        connection.execute(delete(tasks).where(tasks.c.id.in_(ids)))
        return True
    job_steps.remove(connection, [job_id])
    connection.execute(delete(jobs).where(*mine))
    return False


def _taken(job_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is another job {job_id!r} already; choose a new job_id")
