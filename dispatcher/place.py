"""Placing tasks: the pure decision of nodepool.placement, then the reservation that judges it.

Reserve in Redis, then QUEUED -> PLACED in SQL, then the hint to the node. A crash after the first
step leaves a reservation that the sweep takes back; after the second, the node reads its
assignment from its key.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row

from dispatcher.context import Dispatcher
from nodepool import ids, placement
from nodepool.errors import NotFoundError, StaleAttemptError
from nodepool.node import NodeView
from nodepool.resources import Claim, Resources, claim_of
from nodepool.stores import task_store
from nodepool.task import Outcome, TaskState
from nodepool.trust import Tier

log = logging.getLogger(__name__)

# How many waiting tasks one pass looks at.
WAITING_BATCH = 200
_RESERVED = frozenset({"ok", "again"})


def place_one(dispatcher: Dispatcher, task_id: str) -> bool:
    """Place the task if it still waits. True when it has a node now."""
    try:
        task = dispatcher.database.read(lambda connection: task_store.find(connection, task_id))
    except NotFoundError:
        log.warning("a hint named task %s, which does not exist", task_id)
        return False
    if task.state != TaskState.QUEUED or task.stop_requested:
        return False
    return _place(dispatcher, task, _snapshot(dispatcher))


def place_waiting(dispatcher: Dispatcher) -> int:
    """Try the waiting tasks, oldest first; of those with equal needs none after the first that fails."""
    # First, so that whoever frees capacity from now on asks again, whatever becomes of this call.
    dispatcher.waiting.waking()
    dispatcher.waiting_asked.set()
    placed = 0
    # Asked for again while a pass is under way, that pass's thread makes another one after it.
    while dispatcher.waiting_asked.is_set() and dispatcher.waiting_pass.acquire(blocking=False):
        try:
            dispatcher.waiting_asked.clear()
            rows = dispatcher.database.read(lambda connection: task_store.queued(connection, WAITING_BATCH))
            placed += _place_rows(dispatcher, rows)
        finally:
            dispatcher.waiting_pass.release()
    return placed


def _place_rows(dispatcher: Dispatcher, rows: Any) -> int:
    placed = 0
    hopeless: set[tuple[Any, ...]] = set()
    nodes = _snapshot(dispatcher)
    for task in rows:
        group = _needs_key(task)
        if group in hopeless:
            continue
        if _place(dispatcher, task, nodes):
            placed += 1
            nodes = _snapshot(dispatcher)
        else:
            hopeless.add(group)
    return placed


def _needs_key(task: Row[Any]) -> tuple[Any, ...]:
    return (
        task.tier, task.region, task.gpu_name, task.pinned_node, task.cpu_score, task.memory_gb,
        task.gpu_score, task.gpu_memory_gb,
    )  # fmt: skip


def _snapshot(dispatcher: Dispatcher) -> list[NodeView]:
    return dispatcher.registry.snapshot(dispatcher.settings.node_late_seconds)


def _place(dispatcher: Dispatcher, task: Row[Any], nodes: list[NodeView]) -> bool:
    claim = claim_of(
        Resources(task.cpu_score, task.memory_gb, task.gpu_score, task.gpu_memory_gb),
        default_memory_mb=dispatcher.settings.default_task_memory_mb,
    )
    excluded: frozenset[str] = frozenset()
    if task.attempts_ended:
        excluded = dispatcher.database.read(lambda c: task_store.nodes_that_failed(c, task.id))
    wish = placement.Wish(
        claim=claim,
        tier=Tier(task.tier),
        region=task.region,
        gpu_name=task.gpu_name,
        node_id=task.pinned_node,
        excluded=excluded,
    )
    decision = placement.place(wish, nodes)
    for node_id in decision.ranked:
        if _take(dispatcher, task, node_id, claim):
            return True
    _keep_waiting(dispatcher, task, decision)
    return False


def _take(dispatcher: Dispatcher, task: Row[Any], node_id: str, claim: Claim) -> bool:
    now = dispatcher.clock()
    attempt = ids.attempt_id(task.id, task.attempt_number + 1)
    if dispatcher.registry.reserve(node_id, attempt, claim, at=now) not in _RESERVED:
        return False
    placed = dispatcher.database.write(
        lambda connection: task_store.place(connection, task, node_id, claim, now)
    )
    if not placed:
        # Somebody else moved the task. When that was another dispatcher with this very attempt on
        # this very node, the reservation is its; else it is ours to give back.
        _give_back(dispatcher, attempt, node_id)
        return True
    dispatcher.waiting.remove(task.id)
    dispatcher.publisher.execute(node_id, attempt)
    log.info("attempt %s is placed on %s", attempt, node_id)
    return True


def _give_back(dispatcher: Dispatcher, attempt: str, node_id: str) -> None:
    live = dispatcher.database.read(lambda connection: task_store.live_attempts(connection, node_id))
    if attempt not in {row.id for row in live}:
        dispatcher.registry.release(node_id, attempt)


def _keep_waiting(dispatcher: Dispatcher, task: Row[Any], decision: placement.Decision) -> None:
    now = dispatcher.clock()
    reason = decision.reason()
    dispatcher.waiting.add(task.id)
    if reason != task.reason:
        dispatcher.database.write(
            lambda connection: task_store.set_waiting_reason(connection, task.id, reason, now)
        )


def lose(dispatcher: Dispatcher, row: Row[Any], reason: str) -> None:
    """The attempt of this row (see live_attempts) is gone; its task goes elsewhere."""
    try:
        ended = dispatcher.lifecycle.lose_attempt(row.id, row.node_id, row.owner_id, reason)
    except StaleAttemptError:
        return
    log.warning("attempt %s is %s: %s; its task is %s", row.id, Outcome.LOST, reason, ended.state)
