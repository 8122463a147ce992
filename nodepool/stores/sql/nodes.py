"""Nodes in SQL: who owns them and what they said of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from nodepool.domain.errors import PermissionDeniedError
from nodepool.domain.nodes.claimed_resources import ClaimRules, believed, bounded, is_proven
from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.history import HistoryRules
from nodepool.domain.nodes.node import ENGINE_AWAY, NodeFacts, NodeKind, is_owner_only, isolation_of
from nodepool.domain.nodes.registered_node import RegisteredNode
from nodepool.domain.not_visible import no_node
from nodepool.domain.resources import Claim, Overcommit, Resources, capacity_of
from nodepool.domain.tasks.states import LIVE_ATTEMPT_STATES
from nodepool.domain.trust.tiers import Tier
from nodepool.events.catalogue import LeaveCause, NodeDrained, NodeJoined, NodeLeft, NodeUndrained
from nodepool.stores.sql import verification_records
from nodepool.stores.sql.node_rows import NodePresence, StoredNode
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.tables import attempts, node_records, nodes, owner_records, users
from nodepool.stores.sql.typed_rows import columns

_WITH_OWNER: Select[Any] = (
    select(*columns(StoredNode, nodes, users, node_records, owner_records, owner=users.c.username))
    .join(users, users.c.id == nodes.c.owner_id)
    .outerjoin(node_records, node_records.c.node_id == nodes.c.id)
    .outerjoin(owner_records, owner_records.c.user_id == nodes.c.owner_id)
)
# Made once: building a statement costs more than running it.
_BY_ID = _WITH_OWNER.where(nodes.c.id == bindparam("node_id"))
_LIVE_ON_NODE = select(func.count()).where(
    attempts.c.node_id == bindparam("node_id"),
    attempts.c.state.in_([state.value for state in LIVE_ATTEMPT_STATES]),
)


def register(
    connection: Connection,
    facts: NodeFacts,
    owner_id: int,
    now: float,
    *,
    peer_address: str = "",
    again: bool = False,
    believed: bool = True,
    token_sha256: str = "",
) -> None:
    """Insert or renew. A node id belongs to whom it was first registered by.

    `believed`: its word on Docker is taken, because nobody probes here; else its probes show it.

    `token_sha256`: of the token that it is registered with, where that is to go on counting.

    A new start is not draining; one that only tells of itself again stays as its owner has set it.
    """
    values = asdict(facts)
    values |= values.pop("total")
    del values["memory_mb"]  # only tasks say so exactly what they need
    node_id = values.pop("node_id")
    # Something has changed there. How often it refused before is not forgotten: the next time counts more.
    values |= {"backoff_until": 0.0, "absent_images": ""}
    values |= {
        "active": True,
        "registered_at": now,
        "peer_address": peer_address,
        "token_sha256": token_sha256,
    }
    values |= {"engine_shown": True} if believed else {}
    renewal = {**values, "message_bytes": case((_is_at(facts, peer_address), nodes.c.message_bytes), else_=0)}
    renewal |= {} if again else {"draining": False, "probe_due_at": now}
    mine = update(nodes).where(nodes.c.id == node_id, nodes.c.owner_id == owner_id).values(renewal)
    if connection.execute(mine.where(nodes.c.active.is_(False))).rowcount:
        note(connection, _joined(facts, owner_id, peer_address))
        return
    if connection.execute(mine).rowcount:
        return
    _check_free(connection, node_id, owner_id)
    try:
        connection.execute(insert(nodes).values(id=node_id, owner_id=owner_id, probe_due_at=now, **values))
        verification_records.begin_node(connection, node_id, owner_id, now)
    except IntegrityError as error:
        raise PermissionDeniedError(f"node id {node_id!r} was taken at the same moment") from error
    note(connection, _joined(facts, owner_id, peer_address))


def _check_free(connection: Connection, node_id: str, owner_id: int) -> None:
    """Raises PermissionDeniedError for an id that is another user's, or begins with another's name."""
    if connection.execute(select(nodes.c.id).where(nodes.c.id == node_id)).first():
        raise PermissionDeniedError(f"node id {node_id!r} belongs to another user; choose another name")
    owner = connection.execute(select(users.c.username).where(users.c.id == owner_id)).scalar_one()
    prefix = node_id.split("/", 1)[0] if "/" in node_id else ""
    other = connection.execute(select(users.c.id).where(users.c.username == (prefix or node_id))).scalar()
    if other is not None and other != owner_id:
        raise PermissionDeniedError(f"node id {node_id!r} begins with another user's name; use {owner}/NAME")


def _joined(facts: NodeFacts, owner_id: int, peer_address: str) -> NodeJoined:
    return NodeJoined(
        node=facts.node_id,
        owner_id=owner_id,
        kind=facts.kind,
        region=facts.region,
        cpu_score=facts.total.cpu_score,
        memory_gb=facts.total.memory_gb,
        gpu_score=facts.total.gpu_score,
        address=peer_address,
    )


def _is_at(facts: NodeFacts, peer_address: str) -> ColumnElement[bool]:
    """A node that is called where it was called before: what it refused there it would refuse again."""
    return and_(
        nodes.c.kind == facts.kind,
        nodes.c.hostname == facts.hostname,
        nodes.c.port == facts.port,
        nodes.c.peer_address == peer_address,
    )


def find(connection: Connection, node_id: str) -> StoredNode:
    row = connection.execute(_BY_ID, {"node_id": node_id}).one_or_none()
    if row is None:
        raise no_node(node_id)
    return StoredNode.from_row(row)


def find_own(connection: Connection, node_id: str, owner_id: int) -> StoredNode:
    node = find(connection, node_id)
    if node.owner_id != owner_id:
        raise no_node(node_id)
    return node


def active(connection: Connection) -> Sequence[StoredNode]:
    return StoredNode.from_rows(connection.execute(_WITH_OWNER.where(nodes.c.active).order_by(nodes.c.id)))


def active_of(connection: Connection, owner_id: int) -> Sequence[StoredNode]:
    query = _WITH_OWNER.where(nodes.c.active, nodes.c.owner_id == owner_id)
    return StoredNode.from_rows(connection.execute(query))


def active_of_role(connection: Connection, role: str) -> Sequence[StoredNode]:
    return StoredNode.from_rows(connection.execute(_WITH_OWNER.where(nodes.c.active, users.c.role == role)))


def active_among(connection: Connection, node_ids: Sequence[str]) -> Sequence[StoredNode]:
    """Of these nodes those that are active; not more ids than one statement takes."""
    query = _WITH_OWNER.where(nodes.c.active, nodes.c.id.in_(node_ids))
    return StoredNode.from_rows(connection.execute(query))


def knows_any(connection: Connection, node_ids: Sequence[str]) -> bool:
    """Whether one of them was ever in this pool, and is not forgotten."""
    return connection.execute(select(nodes.c.id).where(nodes.c.id.in_(node_ids)).limit(1)).first() is not None


def count_of(connection: Connection, owner_id: int) -> tuple[int, int]:
    """How many active nodes the owner has, and how many node ids in all."""
    query = select(func.count().filter(nodes.c.active), func.count()).where(nodes.c.owner_id == owner_id)
    active_ones, known = connection.execute(query).one()
    return int(active_ones), int(known)


def states_of(connection: Connection, node_id: str, owner_id: int) -> tuple[bool, bool]:
    """Whether the owner has registered this node before, and whether it is active."""
    query = select(nodes.c.active).where(nodes.c.id == node_id, nodes.c.owner_id == owner_id)
    found = connection.execute(query).scalar_one_or_none()
    return found is not None, bool(found)


def roll_call(connection: Connection) -> Sequence[NodePresence]:
    """The active nodes with no more than a sweep asks of all of them."""
    query = select(*columns(NodePresence, nodes)).where(nodes.c.active).order_by(nodes.c.id)
    return NodePresence.from_rows(connection.execute(query))


def peer_addresses(connection: Connection) -> dict[str, str]:
    """From where each active node registered."""
    rows = connection.execute(select(nodes.c.id, nodes.c.peer_address).where(nodes.c.active))
    return {row.id: row.peer_address for row in rows}


def note_heard(connection: Connection, node_id: str, now: float) -> None:
    """For the sweep, when Redis cannot be told."""
    connection.execute(update(nodes).where(nodes.c.id == node_id).values(heard_at=now))


def set_draining(connection: Connection, node_id: str, *, draining: bool) -> None:
    changed = connection.execute(
        update(nodes)
        .where(nodes.c.id == node_id, nodes.c.draining.is_not(draining))
        .values(draining=draining)
        .returning(nodes.c.owner_id)
    ).scalar_one_or_none()
    if changed is None:
        return
    if draining:
        held = connection.execute(_LIVE_ON_NODE, {"node_id": node_id}).scalar_one()
        note(connection, NodeDrained(node=node_id, owner_id=changed, attempts=held))
    else:
        note(connection, NodeUndrained(node=node_id, owner_id=changed))


def deactivate(connection: Connection, node_id: str, cause: LeaveCause = LeaveCause.SIGNED_OFF) -> None:
    """It is not in the pool any more."""
    left = connection.execute(
        update(nodes)
        .where(nodes.c.id == node_id, nodes.c.active.is_(True))
        .values(active=False)
        .returning(nodes.c.owner_id)
    ).scalar_one_or_none()
    if left is not None:
        note(connection, NodeLeft(node=node_id, owner_id=left, cause=cause))


def _capacity(node: StoredNode, overcommit: Overcommit, claims: ClaimRules | None) -> Claim:
    # What probes found is believed before what the node claims.
    cpu_score = min(node.cpu_score, node.measured_cpu_score) if node.measured_cpu_score else node.cpu_score
    total = Resources(cpu_score, node.memory_gb, node.gpu_score, node.gpu_memory_gb)
    doubted = claims is not None and not is_proven(node.history.good, node.credit_score)
    if claims is not None and doubted:
        total = believed(total, claims)
    capacity = capacity_of(total, max_tasks=node.max_tasks, overcommit=overcommit)
    if claims is not None and doubted:
        capacity = bounded(capacity, claims)
    return capacity


def registered_node(
    node: StoredNode,
    overcommit: Overcommit,
    rules: HistoryRules,
    *,
    now: float,
    claims: ClaimRules | None = None,
    audited: bool = False,
    most_message_bytes: int = 0,
) -> RegisteredNode:
    """The node as the registry keeps it: tier by its owner's present score, capacity with overcommit.

    On probation there is room for one task. `claims`: what is believed of a node that is not proven.
    `audited`: results of low-trust nodes are checked here. `most_message_bytes`: larger ones the pool itself
    does not send.
    """
    history = node.history
    capacity = _capacity(node, overcommit, claims)
    if history.on_probation(rules):
        capacity = replace(capacity, tasks=min(1, capacity.tasks))
    tier = verification_records.tier_of(node)
    # After a false result a low-trust node gets no work for a while.
    paused = tier is Tier.LOW and (node.paused_until or 0.0) > now
    owner_only = is_owner_only(
        node.kind,
        isolation_of(node.isolation, node.docker_status),
        accepts_strangers=node.accepts_strangers,
    )
    refusals = node.refusals
    return RegisteredNode(
        node_id=node.id,
        tier=tier,
        region=node.region,
        gpu_name=node.gpu_name,
        kind=node.kind,
        draining=paused or _gets_nothing(node, now),
        capacity=capacity,
        quality=history.as_of(now, rules).quality,
        owner_id=node.owner_id,
        owner_only=owner_only,
        # Its owner's own tasks are never checked: a node that has only those can earn no trust.
        on_trial=audited and not owner_only and not verification_records.is_trusted(node),
        unfit=node.unfit,
        backs_off=refusals.backs_off(now),
        absent_images=refusals.images_absent(now),
        capabilities=node.capabilities,
        message_bytes=_largest_message(refusals.largest_message(now), most_message_bytes, node.kind),
        generation=node.generation,
    )


def _gets_nothing(node: StoredNode, now: float) -> bool:
    """By its owner's word or its own, for what it refused, or for what it speaks."""
    return (
        node.draining
        or node.refusals.backs_off(now)
        or bool(node.unfit)
        or node.generation is not Generation.OURS
        or (node.kind == NodeKind.AGENT and node.docker_status == ENGINE_AWAY)
    )


def _largest_message(known: int, most: int, kind: NodeKind) -> int:
    """0: as large as any. An agent fetches its packages in pieces."""
    if kind is not NodeKind.PUSHED:
        return 0
    return min(known, most) if known and most else known or most


def set_generation(connection: Connection, node_id: str, before: Generation, after: Generation) -> bool:
    """Whether it was as before: of two reports at once one is told."""
    told = update(nodes).where(nodes.c.id == node_id, nodes.c.generation == before)
    return bool(connection.execute(told.values(generation=after)).rowcount)


def pushed_with_token(connection: Connection, owner_id: int, token_sha256: str) -> str | None:
    """The id of the owner's active node without an agent that was registered with this token."""
    query = select(nodes.c.id).where(
        nodes.c.owner_id == owner_id,
        nodes.c.token_sha256 == token_sha256,
        nodes.c.active.is_(True),
        nodes.c.kind == NodeKind.PUSHED,
    )
    found: str | None = connection.execute(query.limit(1)).scalar()
    return found
