"""What `ExplainTask` asks of SQL: those who wait, how fast tasks are started, which nodes are held back.

Functions of a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select

from nodepool.domain.explain.pool_view import HeldBack
from nodepool.domain.nodes.node import ENGINE_AWAY, NodeKind
from nodepool.stores.sql.tables import attempts, nodes, tasks
from nodepool.stores.sql.task_rows import QueuedTask
from nodepool.stores.sql.tasks import WAITS
from nodepool.stores.sql.typed_rows import columns


def oldest_waiting(connection: Connection, limit: int) -> Sequence[QueuedTask]:
    query = select(*columns(QueuedTask, tasks)).where(WAITS).order_by(tasks.c.created_at, tasks.c.id)
    return QueuedTask.from_rows(connection.execute(query.limit(limit)))


def count_waiting(connection: Connection) -> int:
    return connection.execute(select(func.count()).where(WAITS)).scalar_one()


def held_back(connection: Connection, probation_after: int) -> HeldBack:
    """Active nodes only."""
    query = select(nodes.c.id).where(nodes.c.active)
    away = query.where(nodes.c.kind == NodeKind.AGENT, nodes.c.docker_status == ENGINE_AWAY)

    def ids(found: Select[Any]) -> frozenset[str]:
        return frozenset(connection.execute(found).scalars())

    return HeldBack(
        engine_away=ids(away.where(nodes.c.draining.is_(False))),
        engine_away_too=ids(away.where(nodes.c.draining)),
        on_probation=ids(query.where(nodes.c.bad_streak >= probation_after)),
    )


def starts_since(connection: Connection, since: float) -> dict[str, int]:
    """Attempts given to each node since then; nodes without any are left out."""
    # Not by the column itself: an index has all attempts that ever were in the order of their nodes.
    node = attempts.c.node_id.concat("").label("node")
    query = select(node, func.count()).where(attempts.c.created_at >= since)
    rows = connection.execute(query.group_by(node))
    return {str(row[0]): int(row[1]) for row in rows}
