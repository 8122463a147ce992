"""What checked results say of nodes and their owners, in SQL. The rules are in domain/trust/audits.py.

Functions of a connection. Records are changed with the ledger's head locked, and read at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Select, bindparam, insert, select, update

from nodepool.domain.trust import audits as verification
from nodepool.domain.trust.audits import NodeRecord, OwnerRecord
from nodepool.domain.trust.tiers import Tier, docker_counts, node_tier
from nodepool.stores.sql.tables import node_records, nodes, owner_records, users

_NODE = select(node_records).where(node_records.c.node_id == bindparam("node"))
_OWNER = select(owner_records).where(owner_records.c.user_id == bindparam("user"))
_TIER: Select[Any] = (
    select(users.c.credit_score, nodes.c.docker_status, nodes.c.engine_shown)
    .join(users, users.c.id == nodes.c.owner_id)
    .where(nodes.c.id == bindparam("node"))
)


def of_node(connection: Connection, node_id: str) -> NodeRecord:
    row = connection.execute(_NODE, {"node": node_id}).one_or_none()
    return NodeRecord(verified=row.verified, paused_until=row.paused_until) if row else NodeRecord()


def of_owner(connection: Connection, user_id: int) -> OwnerRecord:
    row = connection.execute(_OWNER, {"user": user_id}).one_or_none()
    return OwnerRecord(strikes=row.strikes, clean=row.clean) if row else OwnerRecord()


def is_low(connection: Connection, node_id: str) -> bool:
    """Whether it is a node of the lowest tier, whose results are checked."""
    row: Row[Any] = connection.execute(_TIER, {"node": node_id}).one()
    return tier_of(row) is Tier.LOW


class TrustedBy(Protocol):
    """What says how far a node is trusted."""

    @property
    def credit_score(self) -> int: ...  # of its owner
    @property
    def docker_status(self) -> str: ...
    @property
    def engine_shown(self) -> bool: ...


class AuditedNode(TrustedBy, Protocol):
    """A node with what checked results say of it and its owner."""

    @property
    def verified(self) -> int | None: ...
    @property
    def strikes(self) -> int | None: ...


def is_trusted(node: AuditedNode) -> bool:
    records = NodeRecord(verified=node.verified or 0), OwnerRecord(strikes=node.strikes or 0)
    return tier_of(node) is not Tier.LOW or verification.is_trusted(*records)


def tier_of(node: TrustedBy) -> Tier:
    counts = docker_counts(node.docker_status, shown=node.engine_shown)
    return node_tier(node.credit_score, docker_works=counts)


def trusted_among(connection: Connection, node_ids: Sequence[str]) -> frozenset[str]:
    """Those of the nodes that have proven themselves by verified results."""
    query = (
        select(node_records.c.node_id, node_records.c.verified, owner_records.c.strikes)
        .join(nodes, nodes.c.id == node_records.c.node_id)
        .outerjoin(owner_records, owner_records.c.user_id == nodes.c.owner_id)
        .where(node_records.c.node_id.in_(node_ids), node_records.c.verified >= verification.TRUSTED_AFTER)
    )
    return frozenset(
        row.node_id
        for row in connection.execute(query)
        if verification.is_trusted(NodeRecord(verified=row.verified), OwnerRecord(strikes=row.strikes or 0))
    )


def of_nodes(connection: Connection, node_ids: Collection[str]) -> dict[str, NodeRecord]:
    """Of those that have one."""
    query = select(node_records).where(node_records.c.node_id.in_(sorted(node_ids)))
    return {
        row.node_id: NodeRecord(verified=row.verified, paused_until=row.paused_until)
        for row in connection.execute(query)
    }


def of_owners(connection: Connection, user_ids: Collection[int]) -> dict[int, OwnerRecord]:
    query = select(owner_records).where(owner_records.c.user_id.in_(sorted(user_ids)))
    return {
        row.user_id: OwnerRecord(strikes=row.strikes, clean=row.clean) for row in connection.execute(query)
    }


def watch(connection: Connection, node_id: str, results: int) -> None:
    """So many of the node's next results are checked, whatever its trust."""
    changed = connection.execute(
        update(node_records).where(node_records.c.node_id == node_id).values(watched=results)
    )
    if not changed.rowcount:
        connection.execute(insert(node_records).values(node_id=node_id, watched=results))


def is_watched(connection: Connection, node_id: str) -> bool:
    query = select(node_records.c.watched).where(node_records.c.node_id == node_id)
    return bool(connection.execute(query).scalar())


def one_less_to_watch(connection: Connection, node_id: str) -> None:
    query = update(node_records).where(node_records.c.node_id == node_id, node_records.c.watched > 0)
    connection.execute(query.values(watched=node_records.c.watched - 1))


def put_owner(connection: Connection, owner_id: int, record: OwnerRecord) -> None:
    values = {"strikes": record.strikes, "clean": record.clean}
    changed = connection.execute(
        update(owner_records).where(owner_records.c.user_id == owner_id).values(values)
    )
    if not changed.rowcount:
        connection.execute(insert(owner_records).values(user_id=owner_id, **values))


def begin_node(connection: Connection, node_id: str, owner_id: int, now: float) -> None:
    """A node id that is new: it waits as long as the one that it may be meant to replace."""
    record = verification.first_record(of_owner(connection, owner_id), now)
    if record != NodeRecord():
        put_node(connection, node_id, record)


def put_node(connection: Connection, node_id: str, record: NodeRecord) -> None:
    values = {"verified": record.verified, "paused_until": record.paused_until}
    changed = connection.execute(update(node_records).where(node_records.c.node_id == node_id).values(values))
    if not changed.rowcount:
        connection.execute(insert(node_records).values(node_id=node_id, **values))
