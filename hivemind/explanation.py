"""Why a task waits and what would place it, as the pool tells it; also of a task that is not sent yet.

Turns the protocol's messages into plain values; knows no connection and no terminal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hivemind.models import TaskInfo, finite, state_told
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedClause:
    """What kept so many nodes from taking the task."""

    clause: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One change that the pool has tried: so many nodes would take the task then.

    `field` is a field of TaskNeeds, or empty for what the operator or a node's owner can do.
    """

    field: str
    value: str
    sentence: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Prices in CPT. `task_id` and `state` are empty for a dry run, `position` is 1 for the next one."""

    task_id: str
    message: str
    state: TaskState | None = None
    places_now: bool = False
    best_node: str = ""
    nodes_looked_at: int = 0
    failed: tuple[FailedClause, ...] = ()
    can_never_run: bool = False
    suggestions: tuple[Suggestion, ...] = ()
    position: int = 0  # 0: it does not wait
    waiting_tasks: int = 0
    estimated_wait_seconds: float | None = None  # None: nothing is known to say
    estimate_basis: str = ""
    price_per_minute_cpt: int = 0
    max_price_cpt: int = 0
    max_minutes: int = 0
    # Of a dry run: what your tasks keep, what they may keep, and the days that a result stays (0: for ever).
    stored_bytes: int = 0
    stored_bytes_limit: int = 0  # 0: an older pool
    result_days: float = 0.0
    minutes_by_balance: bool = False  # max_minutes is not named, and is what your balance covers
    waits_for_money: bool = False  # you have less than it holds when it is placed
    array_most_cpt: int = 0  # what all tasks of an array can cost
    waits_for_others: bool = False  # it comes after other tasks, and waits for no node yet
    complete: bool = True  # False: an older pool, that tells the message and no more


def explanation_from_wire(answer: pb.ExplainTaskResponse, task_id: str = "") -> Explanation:
    wait = answer.estimated_wait_seconds
    return Explanation(
        task_id=task_id,
        message=answer.message,
        state=state_told(answer.state, waits_for_others=answer.waits_for_others) if answer.state else None,
        places_now=answer.places_now,
        best_node=answer.best_node,
        nodes_looked_at=answer.nodes_looked_at,
        failed=tuple(FailedClause(clause=each.clause, nodes=each.nodes) for each in answer.failed),
        can_never_run=answer.can_never_run,
        suggestions=tuple(
            Suggestion(field=each.field, value=each.value, sentence=each.sentence, nodes=each.nodes)
            for each in answer.suggestions
        ),
        position=answer.position,
        waiting_tasks=answer.waiting_tasks,
        estimated_wait_seconds=wait if math.isfinite(wait) and wait >= 0 else None,
        estimate_basis=answer.estimate_basis,
        price_per_minute_cpt=answer.price_per_minute_cpt,
        max_price_cpt=answer.max_price_cpt,
        max_minutes=answer.max_minutes,
        stored_bytes=answer.stored_bytes,
        stored_bytes_limit=answer.stored_bytes_limit,
        result_days=finite(answer.result_days),
        minutes_by_balance=answer.minutes_by_balance,
        waits_for_money=answer.waits_for_money,
        array_most_cpt=answer.array_most_cpt,
        waits_for_others=answer.waits_for_others,
    )


def explanation_of_older_pool(task: TaskInfo) -> Explanation:
    """What the task's status alone says."""
    return Explanation(task_id=task.task_id, message=task.reason, state=task.state, complete=False)
