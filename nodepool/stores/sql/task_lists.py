"""Pages of tasks, newest first, found by an index: nobody's list reads the rows of others.

A page begins after a place (when a task was submitted, and its id), so that what is added meanwhile moves
nothing. First the ids of the page are found, then their rows. Functions of a connection: the use case that
calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, select, text, tuple_, union_all

from nodepool.domain.tasks.states import TaskKind, TaskState
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.stores.sql import task_labels as label_store
from nodepool.stores.sql.held_back_results import shown_as, shown_as_any
from nodepool.stores.sql.tables import attempts, tasks
from nodepool.stores.sql.task_rows import OwnedTask, TaskPulse
from nodepool.stores.sql.tasks import WITH_OWNER, of_jobs_on_their_way
from nodepool.stores.sql.typed_rows import begins_with, columns

# When a task was submitted, and its id.
Place = tuple[float, str]
# As its index has it, word for word.
_SINGLE = text("tasks.job_id = ''")


def page(
    connection: Connection, wanted: TaskFilter, limit: int, *, owner_id: int | None, after: Place | None
) -> Sequence[OwnedTask]:
    """Of one owner, or for an operator of all."""
    ids = list(connection.execute(page_query(wanted, limit, owner_id, after)).scalars())
    return _in_order(connection, ids)


def page_query(wanted: TaskFilter, limit: int, owner_id: int | None, after: Place | None) -> Select[Any]:
    """The ids of the page."""
    if wanted.labels:
        labelled = label_store.labelled(owner_id, wanted.labels).subquery()
        found = select(labelled.c.task_id.label("id"), labelled.c.created_at).join(
            tasks, tasks.c.id == labelled.c.task_id
        )
        found = found.where(_is_in(wanted, owner_id))
        return _ids(_cut(found, labelled.c.created_at, labelled.c.task_id, wanted, after, limit))
    # Where an index has the state, each is a range of it; else it is looked at.
    has_range = bool(wanted.name or wanted.job_id or (wanted.node_id and owner_id is None))
    states = wanted.states or (() if owner_id is not None else tuple(TaskState))
    branches = [_is_in(wanted, owner_id)]
    if not has_range and states:
        mine = _is_in(wanted, owner_id, with_states=False)
        branches = [mine & one for state in states for one in shown_as(state)]
    parts = [
        _cut(
            select(tasks.c.id, tasks.c.created_at).where(branch),
            tasks.c.created_at,
            tasks.c.id,
            wanted,
            after,
            limit,
        )
        for branch in branches
    ]
    if len(parts) == 1:
        return _ids(parts[0])
    subqueries = [part.subquery() for part in parts]
    merged = union_all(*(select(one.c.id, one.c.created_at) for one in subqueries)).subquery()
    ordered = select(merged.c.id).order_by(merged.c.created_at.desc(), merged.c.id.desc())
    return ordered.limit(limit)


def _cut(
    query: Select[Any],
    created_at: ColumnElement[Any],
    task_id: ColumnElement[Any],
    wanted: TaskFilter,
    after: Place | None,
    limit: int,
) -> Select[Any]:
    """What of it is in the time that is asked for, after the place."""
    if wanted.since:
        query = query.where(created_at >= wanted.since)
    if wanted.until:
        query = query.where(created_at < wanted.until)
    if after is not None:
        query = query.where(tuple_(created_at, task_id) < after)
    return query.order_by(created_at.desc(), task_id.desc()).limit(limit)


def _ids(query: Select[Any]) -> Select[Any]:
    return query.with_only_columns(query.selected_columns[0], maintain_column_froms=True)


def _is_in(wanted: TaskFilter, owner_id: int | None, *, with_states: bool = True) -> ColumnElement[bool]:
    """All but the labels and the time."""
    # Where a job is named its index has them, and the owner's is not taken.
    parts = [_visible(owner_id, found_by_owner=not wanted.job_id)]
    if wanted.name:
        # The second says that the partial index is enough.
        parts += [tasks.c.name == wanted.name, tasks.c.name != ""]
    if wanted.job_id:
        parts += [tasks.c.job_id == wanted.job_id, tasks.c.job_id != ""]
    if wanted.node_id:
        parts += [tasks.c.node_id == wanted.node_id, tasks.c.node_id != ""]
        if owner_id is None:
            parts.append(tasks.c.id.in_(_had_by(wanted.node_id)))
    if with_states and wanted.states:
        parts.append(shown_as_any(wanted.states))
    return and_(*parts)


def _visible(owner_id: int | None, *, found_by_owner: bool = True) -> ColumnElement[bool]:
    """`found_by_owner`: false where another column is to find them: an owner's tasks may be very many."""
    if owner_id is None:
        return _is_there(owner_id)
    owner = tasks.c.owner_id if found_by_owner else tasks.c.owner_id + 0
    return (owner == owner_id) & _is_there(owner_id)


def _is_there(owner_id: int | None) -> ColumnElement[bool]:
    return (tasks.c.kind == TaskKind.USER) & (tasks.c.deleted_at == 0) & ~of_jobs_on_their_way(owner_id)


def _had_by(node_id: str) -> Select[Any]:
    """Tasks of which the node had an attempt, or one of a run of theirs."""
    had = tasks.alias("had")
    shown = case((had.c.parent_id != "", had.c.parent_id), else_=had.c.id)
    query = select(shown).select_from(attempts).join(had, had.c.id == attempts.c.task_id)
    return query.where(attempts.c.node_id == node_id)


def _in_order(connection: Connection, ids: Sequence[str]) -> list[OwnedTask]:
    if not ids:
        return []
    rows = OwnedTask.from_rows(connection.execute(WITH_OWNER.where(tasks.c.id.in_(ids))))
    by_id = {row.id: row for row in rows}
    return [by_id[task_id] for task_id in ids if task_id in by_id]


# -- by their ids --------------------------------------------------------------------------------------
def _own_by_id(owner_id: int, ids: Sequence[str]) -> ColumnElement[bool]:
    return tasks.c.id.in_(list(ids)) & _visible(owner_id, found_by_owner=False)


def own(connection: Connection, owner_id: int, ids: Sequence[str]) -> Sequence[OwnedTask]:
    """Those of these tasks that the owner has."""
    rows = connection.execute(WITH_OWNER.where(_own_by_id(owner_id, ids)))
    return OwnedTask.from_rows(rows)


def pulses(connection: Connection, owner_id: int, ids: Sequence[str]) -> Sequence[TaskPulse]:
    """The same, with as little of each as tells whether it has changed."""
    query = select(*columns(TaskPulse, tasks)).where(_own_by_id(owner_id, ids))
    return TaskPulse.from_rows(connection.execute(query))


def beginning_with(connection: Connection, owner_id: int, prefix: str, limit: int) -> list[str]:
    """Ids of the owner's tasks that begin so and are of no job."""
    mine = tasks.c.owner_id == owner_id, tasks.c.kind == TaskKind.USER, tasks.c.deleted_at == 0, _SINGLE
    query = select(tasks.c.id).where(*mine, begins_with(tasks.c.id, prefix, connection)).limit(limit)
    return list(connection.execute(query).scalars())
