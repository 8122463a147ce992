"""A queued task of SQL as the queue knows it."""

from __future__ import annotations

from nodepool.domain.explain.request import asked_of
from nodepool.domain.scheduling.wait_queue import WaitingTask
from nodepool.domain.tasks.states import ORDERED_BY_POOL, LocationMode, TaskKind
from nodepool.settings import Settings
from nodepool.stores.sql.task_rows import QueuedTask


def waiting_task(
    row: QueuedTask,
    settings: Settings,
    excluded: frozenset[str] = frozenset(),
    not_owners: frozenset[int] = frozenset(),
    wish_owner: int = 0,
) -> WaitingTask:
    """The task in the line; `excluded` nodes had it before, `not_owners` may not have it.

    `wish_owner` is its owner where that counts (Fleet.owner_of_wish).
    """
    # Who only prefers a region does not choose by it who checks the result.
    relaxed = row.kind == TaskKind.AUDIT and row.location_mode == LocationMode.PREFER
    asked = asked_of(row, excluded, not_owners, settings.default_image, relaxed=relaxed, owner_id=wish_owner)
    return WaitingTask(
        task_id=row.id,
        owner_id=row.owner_id,
        wish=asked.wish(settings.default_task_memory_mb),
        priority=row.priority,
        created_at=row.created_at,
        queued_at=row.queued_at or row.created_at,
        attempt_number=row.attempt_number,
        location_mode=row.location_mode,
        limited=row.kind not in ORDERED_BY_POOL,
    )
