"""Labels of users' tasks, as lists find tasks by them.

The tasks have them too, as they are shown; here is a row for each, with the owner and the time that a list is
ordered by, so that one index finds a page however many tasks there are. Labels never change. Runs of a task
have none. Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select

from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.stores.sql.tables import task_labels

_INSERT = insert(task_labels)


def add(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Of these new rows of tasks."""
    found = [
        {
            "task_id": row["id"],
            "key": key,
            "value": value,
            "owner_id": row["owner_id"],
            "created_at": row["created_at"],
        }
        for row in rows
        if row["labels"]
        for key, value in mapping_from_json(row["labels"]).items()
    ]
    if found:
        connection.execute(_INSERT, found)


def remove(connection: Connection, task_ids: Sequence[str]) -> None:
    """Before the tasks themselves go."""
    connection.execute(delete(task_labels).where(task_labels.c.task_id.in_(task_ids)))


def labelled(owner_id: int | None, wanted: Mapping[str, str]) -> Select[tuple[str, float]]:
    """`task_id` and `created_at` of the owner's tasks that have each of these labels with this value; None:
    everybody's, for which all of the index is read.

    Join it with `tasks` and order by these two, and one index finds a page in that order: of the first of the
    labels by their keys, so that with several the others are looked up for each task.
    """
    (key, value), *others = sorted(wanted.items())
    query = select(task_labels.c.task_id, task_labels.c.created_at).where(
        task_labels.c.key == key, task_labels.c.value == value
    )
    if owner_id is not None:
        query = query.where(task_labels.c.owner_id == owner_id)
    for other_key, other_value in others:
        other = task_labels.alias()
        mine = other.c.task_id == task_labels.c.task_id, other.c.key == other_key
        query = query.where(select(other.c.task_id).where(*mine, other.c.value == other_value).exists())
    return query
