"""Nodes that are not heard of any more: noted when they last were, taken out of the pool, and forgotten.

A forgotten node's id is free again. What was found of its owner stays (owner_records), and whoever comes back
under a new id begins as a newcomer does (verification_records.begin_node).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select, update

from nodepool.stores.sql.tables import attempts, node_records, nodes, probes, provisional_results


def note_seen(connection: Connection, node_ids: Sequence[str], now: float) -> None:
    """These were heard of; not more ids than one statement takes."""
    connection.execute(update(nodes).where(nodes.c.id.in_(node_ids)).values(seen_at=now))


def silent(connection: Connection, before: float, limit: int) -> list[str]:
    """Active nodes that were last heard of before that, those first that are silent longest."""
    away = nodes.c.active, nodes.c.seen_at < before, nodes.c.registered_at < before
    query = select(nodes.c.id).where(*away).order_by(nodes.c.seen_at).limit(limit)
    return list(connection.execute(query).scalars())


def forget(connection: Connection, before: float, limit: int) -> int:
    """Nodes that left before that, and of which no attempt is kept any more."""
    used = (
        select(table.c.node_id).where(table.c.node_id == nodes.c.id).exists()
        for table in (attempts, probes, provisional_results)
    )
    query = (
        select(nodes.c.id)
        .where(
            nodes.c.active.is_(False),
            nodes.c.seen_at < before,
            nodes.c.registered_at < before,
            *(~kept for kept in used),
        )
        .order_by(nodes.c.seen_at)
        .limit(limit)
        .with_for_update(of=nodes, skip_locked=True)
    )
    gone = list(connection.execute(query).scalars())
    if gone:
        connection.execute(delete(node_records).where(node_records.c.node_id.in_(gone)))
        connection.execute(delete(nodes).where(nodes.c.id.in_(gone)))
    return len(gone)


def active_ids(connection: Connection) -> set[str]:
    return set(connection.execute(select(nodes.c.id).where(nodes.c.active)).scalars())


def active_among(connection: Connection, node_ids: Sequence[str]) -> set[str]:
    query = select(nodes.c.id).where(nodes.c.active, nodes.c.id.in_(node_ids))
    return set(connection.execute(query).scalars())
