"""Probes in SQL: whose turn it is, the tasks that they are, and what they found.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, text, update

from nodepool.domain.nodes.node import ENGINE_AWAY, NodeKind
from nodepool.domain.tasks.states import TaskKind, TaskState
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.domain.trust.benchmark_probe import Belief, ProbeVerdict
from nodepool.domain.trust.credit import Cause
from nodepool.domain.trust.credit_moves import NewChange, change_id
from nodepool.stores.sql import (
    tasks as task_store,
    users as user_store,
    verification_records,
)
from nodepool.stores.sql.node_rows import DueNode
from nodepool.stores.sql.owner_only_nodes import takes_strangers
from nodepool.stores.sql.tables import attempts, nodes, probes, tasks, users
from nodepool.stores.sql.task_lists import page_query
from nodepool.stores.sql.task_rows import OpenProbe, RecentTask
from nodepool.stores.sql.typed_rows import columns
from nodepool.stores.sql.users import NewUser

# Nobody can register such a name, or log in with it.
POOL_USERNAME = "(pool)"
_LEAST_PRIORITY = 0
_OPEN = text("probes.verdict = ''")
_MAY_BE_PROBED = (
    nodes.c.active
    & nodes.c.draining.is_(False)
    & (nodes.c.kind == NodeKind.AGENT)
    & (nodes.c.docker_status != ENGINE_AWAY)
    # The pool's probes are a stranger's, too.
    & takes_strangers()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProbe:
    task_id: str
    node: DueNode
    score: int  # of cpu_score, what it is given
    chains: int
    seed: str
    work: int
    image: str
    memory_gb: int
    max_minutes: int
    package_sha256: str
    package_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What was found, and what is to follow."""

    verdict: ProbeVerdict
    belief: Belief
    due_at: float
    engine_shown: bool | None = None  # None: as before
    changes: tuple[NewChange, ...] = ()


def pool_user(connection: Connection, now: float) -> int:
    """The user whom the pool's own tasks belong to; made when it is not there. It cannot log in."""
    found: int | None = connection.execute(
        select(users.c.id).where(users.c.username == POOL_USERNAME)
    ).scalar()
    if found is not None:
        return found
    newcomer = NewUser(POOL_USERNAME, "", user_store.SYSTEM_ROLE, credit_score=0, grant_cpt=0)
    user_id = user_store.add(connection, newcomer, now)
    connection.execute(update(users).where(users.c.id == user_id).values(blocked=True))
    return user_id


def due(connection: Connection, now: float, limit: int) -> Sequence[DueNode]:
    """Nodes whose turn it is, those who wait longest first."""
    query = (
        select(*columns(DueNode, nodes, users))
        .join(users, users.c.id == nodes.c.owner_id)
        .where(_MAY_BE_PROBED, nodes.c.probe_due_at <= now)
    )
    rows = connection.execute(query.order_by(nodes.c.probe_due_at, nodes.c.id).limit(limit))
    return DueNode.from_rows(rows)


def add(connection: Connection, probe: NewProbe, *, due_again: float, now: float) -> bool:
    """The task, pinned to its node. False when it is not the node's turn any more."""
    node = probe.node
    taken = connection.execute(
        update(nodes)
        .where(nodes.c.id == node.id, nodes.c.probe_due_at == node.probe_due_at, _MAY_BE_PROBED)
        .values(probe_due_at=due_again)
    )
    if taken.rowcount == 0:
        return False
    task_store.insert_task(connection, _task(probe, pool_user(connection, now), now))
    connection.execute(
        insert(probes).values(
            task_id=probe.task_id,
            node_id=node.id,
            seed=probe.seed,
            chains=probe.chains,
            work=probe.work,
            claimed_cpu_score=node.cpu_score,
            created_at=now,
        )
    )
    return True


def _task(probe: NewProbe, owner_id: int, now: float) -> dict[str, Any]:
    node = probe.node
    return {
        "id": probe.task_id,
        "owner_id": owner_id,
        "kind": TaskKind.PROBE,
        "state": TaskState.QUEUED,
        "cpu_score": probe.score,
        "memory_gb": probe.memory_gb,
        "gpu_score": 0,
        "gpu_memory_gb": 0,
        "gpu_name": "",
        "region": "any",
        # No higher than it must be: among those who wait, it comes after users' tasks of that tier.
        "tier": verification_records.tier_of(node),
        "pinned_node": node.id,
        "priority": _LEAST_PRIORITY,
        "image": probe.image,
        "network": False,
        "max_minutes": probe.max_minutes,
        "package_sha256": probe.package_sha256,
        "package_bytes": probe.package_bytes,
        "created_at": now,
        "updated_at": now,
        "hinted_at": now,
        "queued_at": now,
    }


def opened(connection: Connection, limit: int) -> Sequence[OpenProbe]:
    """Probes that are not judged yet, oldest first, with their task, its last attempt and their node."""
    query = (
        select(
            *columns(
                OpenProbe,
                probes,
                tasks,
                nodes,
                attempt_state=attempts.c.state,
                started_at=attempts.c.started_at,
                finished_at=attempts.c.finished_at,
                owner_id=nodes.c.owner_id,
                cpu_score=nodes.c.cpu_score,
            )
        )
        .join(tasks, tasks.c.id == probes.c.task_id)
        .join(nodes, nodes.c.id == probes.c.node_id)
        .outerjoin(
            attempts, (attempts.c.task_id == tasks.c.id) & (attempts.c.number == tasks.c.attempt_number)
        )
        .where(_OPEN)
    )
    return OpenProbe.from_rows(connection.execute(query.order_by(probes.c.created_at).limit(limit)))


def close(connection: Connection, probe: OpenProbe, closing: Closing) -> bool:
    """Keep the verdict, once. False: it was judged before."""
    closed = connection.execute(
        update(probes).where(probes.c.task_id == probe.task_id, _OPEN).values(verdict=closing.verdict)
    )
    if closed.rowcount == 0:
        return False
    connection.execute(
        update(nodes)
        .where(nodes.c.id == probe.node_id)
        .values(
            probe_due_at=closing.due_at,
            measured_cpu_score=closing.belief.measured,
            slow_probes=closing.belief.slow,
            **({} if closing.engine_shown is None else {"engine_shown": closing.engine_shown}),
        )
    )
    return True


def change_of(probe: OpenProbe, cause: Cause, reason: str) -> NewChange:
    return NewChange(
        id=change_id(cause, f"{probe.task_id}:{probe.attempt_number}"),
        user_id=probe.owner_id,
        cause=cause,
        reason=reason,
        node_id=probe.node_id,
    )


def recent_tasks(connection: Connection, limit: int) -> Sequence[RecentTask]:
    """What users sent last."""
    ids = list(connection.execute(page_query(TaskFilter(), limit, None, None)).scalars())
    query = select(*columns(RecentTask, tasks)).where(tasks.c.id.in_(ids))
    return RecentTask.from_rows(connection.execute(query.order_by(tasks.c.created_at.desc())))


def answered_elsewhere(connection: Connection, owner_id: int, since: float) -> bool:
    """Has a node of another owner answered a probe rightly since then? So probes can be answered here."""
    query = (
        select(probes.c.task_id)
        .join(nodes, nodes.c.id == probes.c.node_id)
        .where(
            probes.c.verdict == ProbeVerdict.RIGHT, probes.c.created_at >= since, nodes.c.owner_id != owner_id
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None
