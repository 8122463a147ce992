"""QUEUED -> PLACED for many tasks in one transaction, and what is read and written around it.

Functions of a connection: the use case that calls them owns the transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, or_, select, update

from nodepool.domain.money.ledger import PriceTerms
from nodepool.domain.money.pricing import to_hold_when_placed
from nodepool.domain.nodes.fitness import ASKED_AGAIN_SECONDS
from nodepool.domain.resources import Claim
from nodepool.domain.tasks.reason_classes import NODE_FOR_TASK_CODES
from nodepool.domain.tasks.reasons import NO_REASON, Reason, ReasonCode
from nodepool.domain.tasks.states import ORDERED_BY_POOL, AttemptState, TaskState, check_task_transition
from nodepool.events.catalogue import TaskPlaced
from nodepool.stores.sql.ledger import api as ledger_store, holds as hold_store
from nodepool.stores.sql.ledger.holds import DeferredHold
from nodepool.stores.sql.noted_events import note
from nodepool.stores.sql.reason_columns import reason_columns
from nodepool.stores.sql.replicas import Apart
from nodepool.stores.sql.tables import attempts, nodes, tasks
from nodepool.stores.sql.task_rows import QueuedTask
from nodepool.stores.sql.tasks import WAITS, WAITS_BY_ID
from nodepool.stores.sql.typed_rows import columns

# What belongs to an image or a size is known of the node (see nodepool.domain.nodes.fitness).
_CANNOT = sorted(NODE_FOR_TASK_CODES - {ReasonCode.IMAGE_ABSENT, ReasonCode.MESSAGE_TOO_LARGE})
# Of a task that waits again.
_HAD_IT = [AttemptState.LOST, AttemptState.REFUSED, AttemptState.FINISHED]
_Id = TypeVar("_Id", int, str)
# Databases have a limit on the values of one statement.
_AT_ONCE = 1000
_MOVE = (
    update(tasks)
    .where(tasks.c.id == bindparam("task"), tasks.c.attempt_number == bindparam("before"), WAITS)
    .values(
        state=TaskState.PLACED,
        attempt_number=bindparam("number"),
        node_id=bindparam("node"),
        hold_again=0,
        **reason_columns(NO_REASON),
        updated_at=bindparam("now"),
    )
)
_INSERT_ATTEMPT = insert(attempts)
_PLACED_COLUMNS = tuple(
    tasks.c[name]
    for name in (
        "id", "attempt_number", "queued_at", "created_at", "owner_id", "kind", "tier", "region",
        "holds_when_placed", "price_per_minute", "max_minutes", "fee_percent", "hold_again",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Placement:
    """A reservation that SQL is to know of: attempt `number` of the task, on this node."""

    task_id: str
    number: int
    node_id: str
    claim: Claim
    attempt_id: str  # see ids.attempt_id
    owner_id: int = 0  # of the task


@dataclass(frozen=True, slots=True)
class Placed:
    """Ids of tasks: those that have a node now, and those that wait on because their owner cannot pay."""

    placed: frozenset[str] = frozenset()
    unpaid: frozenset[str] = frozenset()


def waiting(connection: Connection, task_ids: Sequence[str]) -> list[QueuedTask]:
    """Those of the tasks that wait for a node."""
    found: list[QueuedTask] = []
    for ids in _slices(task_ids):
        query = select(*columns(QueuedTask, tasks)).where(tasks.c.id.in_(ids), WAITS_BY_ID)
        found += QueuedTask.from_rows(connection.execute(query))
    return found


def running_of(connection: Connection, owner_ids: Collection[int]) -> dict[int, int]:
    """How many tasks of each of these users are on nodes; of a task with several runs each run is one."""
    counts: dict[int, int] = {}
    on_nodes = tasks.c.state.in_([TaskState.PLACED, TaskState.RUNNING])
    mine = on_nodes & (tasks.c.replicas == 1) & (tasks.c.kind.not_in(ORDERED_BY_POOL))
    for some in _slices(owner_ids):
        query = select(tasks.c.owner_id, func.count()).where(mine, tasks.c.owner_id.in_(some))
        counts |= {row[0]: row[1] for row in connection.execute(query.group_by(tasks.c.owner_id))}
    return counts


def failed_nodes(connection: Connection, task_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """Nodes that lost or refused each of the tasks before, or where it failed by itself."""
    found: dict[str, set[str]] = {}
    for ids in _slices(task_ids):
        query = select(attempts.c.task_id, attempts.c.node_id).where(
            attempts.c.task_id.in_(ids), attempts.c.state.in_(_HAD_IT)
        )
        for task_id, node_id in connection.execute(query):
            found.setdefault(task_id, set()).add(node_id)
    return {task_id: frozenset(nodes) for task_id, nodes in found.items()}


def refusing_nodes(connection: Connection, task_ids: Sequence[str], now: float) -> dict[str, frozenset[str]]:
    """Nodes that cannot have each of the tasks: they refused it for what they cannot do for it, and have not
    registered since, as they do when something has changed there."""
    found: dict[str, set[str]] = {}
    for ids in _slices(task_ids):
        query = (
            select(attempts.c.task_id, attempts.c.node_id)
            .join(nodes, nodes.c.id == attempts.c.node_id)
            .where(
                attempts.c.task_id.in_(ids),
                attempts.c.state == AttemptState.REFUSED,
                attempts.c.reason_code.in_(_CANNOT),
                attempts.c.finished_at >= nodes.c.registered_at,
                attempts.c.finished_at > now - ASKED_AGAIN_SECONDS,
            )
        )
        for task_id, node_id in connection.execute(query):
            found.setdefault(task_id, set()).add(node_id)
    return {task_id: frozenset(those) for task_id, those in found.items()}


def place_all(
    connection: Connection, placements: Sequence[Placement], now: float, *, lock_ledger: bool = False
) -> Placed:
    """Place what still waits, each with a new attempt. Not two runs of one task with one owner.

    A task that holds its price only when it is placed holds it from now on, or is not placed. Raises
    NotEnoughCptError where its owner's money went elsewhere meanwhile, which cannot be with `lock_ledger`.
    """
    check_task_transition(TaskState.QUEUED, TaskState.PLACED)
    _lock_ledger(connection, placements, always=lock_ledger)
    apart = Apart.of(connection, [(it.task_id, it.node_id) for it in placements])
    found: dict[str, Row[Any]] = {}
    for ids in _slices([placement.task_id for placement in placements]):
        query: Select[Any] = select(*_PLACED_COLUMNS).where(tasks.c.id.in_(ids), WAITS_BY_ID)
        # Nobody moves them before this transaction ends; SQLite has one writer anyway, and leaves this out.
        found |= {row.id: row for row in connection.execute(query.with_for_update(of=tasks))}
    moving = [
        it
        for it in placements
        if it.task_id in found
        and found[it.task_id].attempt_number == it.number - 1
        and apart.allows(it.task_id, it.node_id)
    ]
    due = [_hold_of(found[it.task_id]) for it in moving if to_hold_when_placed(found[it.task_id])]
    paid = hold_store.covered(connection, due, lock_ledger=lock_ledger)
    unpaid = {hold.task_id for hold in due} - {hold.task_id for hold in paid}
    moving = [it for it in moving if it.task_id not in unpaid]
    if moving:
        connection.execute(
            _MOVE,
            [
                {
                    "task": it.task_id,
                    "before": it.number - 1,
                    "number": it.number,
                    "node": it.node_id,
                    "now": now,
                }
                for it in moving
            ],
        )
        connection.execute(
            _INSERT_ATTEMPT, [_attempt(it, _waited(found[it.task_id], now), now) for it in moving]
        )
    for it in moving:
        note(connection, _placed(it, found[it.task_id], now))
    # The last: everybody who moves CPT waits for it.
    hold_store.hold_all(connection, paid, now)
    return Placed(frozenset(it.task_id for it in moving), frozenset(unpaid))


def _lock_ledger(connection: Connection, placements: Sequence[Placement], *, always: bool) -> None:
    """Whoever moves CPT locks the head before rows of tasks."""
    if always or _somebody_holds(connection, [it.task_id for it in placements]):
        ledger_store.lock(connection)


def _somebody_holds(connection: Connection, task_ids: Sequence[str]) -> bool:
    """Whether one of these tasks may hold its price when it is placed."""
    holds = tasks.c.holds_when_placed | (tasks.c.hold_again > 0)
    return any(
        connection.execute(select(tasks.c.id).where(tasks.c.id.in_(ids), holds).limit(1)).first()
        for ids in _slices(task_ids)
    )


def _hold_of(row: Row[Any]) -> DeferredHold:
    terms = PriceTerms(row.price_per_minute, row.max_minutes, fee_percent=row.fee_percent)
    again = row.hold_again if row.attempt_number else 0
    return DeferredHold(row.id, row.owner_id, terms, again=again, number=row.attempt_number + 1)


def _waited(task: Row[Any], now: float) -> float:
    return max(0.0, now - float(task.queued_at or task.created_at))


def _placed(placement: Placement, task: Row[Any], now: float) -> TaskPlaced:
    return TaskPlaced(
        task=placement.task_id,
        attempt=placement.attempt_id,
        number=placement.number,
        node=placement.node_id,
        owner_id=task.owner_id,
        kind=task.kind,
        tier=task.tier,
        region=task.region,
        wait_seconds=_waited(task, now),
    )


def _attempt(placement: Placement, queue_seconds: float, now: float) -> dict[str, Any]:
    claim = placement.claim
    return {
        "id": placement.attempt_id,
        "task_id": placement.task_id,
        "number": placement.number,
        "node_id": placement.node_id,
        "state": AttemptState.ASSIGNED,
        "claim_cpu_score": claim.cpu_score,
        "claim_memory_mb": claim.memory_mb,
        "claim_gpu_score": claim.gpu_score,
        "claim_gpu_memory_gb": claim.gpu_memory_gb,
        "created_at": now,
        "queue_seconds": queue_seconds,
    }


def set_reason(connection: Connection, task_ids: Sequence[str], reason: Reason, now: float) -> list[str]:
    """Why these tasks wait; the ids of those for which it is news."""
    told = reason_columns(reason)
    is_news = or_(*(tasks.c[name] != value for name, value in told.items()))
    news: list[str] = []
    for ids in _slices(task_ids):
        other = tasks.c.id.in_(ids) & WAITS_BY_ID & is_news
        changed = connection.execute(select(tasks.c.id).where(other)).scalars().all()
        if changed:
            connection.execute(update(tasks).where(other).values(**told, updated_at=now))
        news += changed
    return news


def _slices(ids: Collection[_Id]) -> Iterable[list[_Id]]:
    every = list(ids)
    return (every[start : start + _AT_ONCE] for start in range(0, len(every), _AT_ONCE))
