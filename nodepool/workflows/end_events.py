"""What the end of an attempt is called among the pool's events: of what was read, decided and applied."""

from __future__ import annotations

from nodepool.domain.ends.effects import Effects, FamilyEffects
from nodepool.domain.ends.ending_attempt import End, EndingAttempt
from nodepool.domain.tasks.states import FINAL_TASK_STATES, TaskKind
from nodepool.events.catalogue import EndedAttempt, TaskEnded
from nodepool.stores.sql import replicas
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.noted_events import note


def note_end(connection: Connection, attempt: EndingAttempt, end: End, effects: Effects) -> None:
    """Nothing where it was told before."""
    closed, moved, task = effects.closed, effects.moved, attempt.task
    if closed is None or moved is None:
        return
    is_tasks = task.kind is TaskKind.USER and moved.state in FINAL_TASK_STATES
    event = TaskEnded if is_tasks else EndedAttempt
    ended = event(
        task=task.id,
        attempt=attempt.id,
        number=attempt.number,
        node=attempt.node.id,
        owner_id=task.owner_id,
        kind=task.kind,
        tier=task.tier,
        region=task.region,
        state=moved.state,
        outcome=end.outcome,
        reason=end.reason.code,
        reason_class=end.reason_class,
        exit_code=closed.exit_code,
        cpu_seconds=closed.cpu_seconds,
        peak_memory_bytes=closed.peak_memory_bytes,
        run_seconds=closed.run_seconds or 0.0,
        # What a task with several runs pays is told of the task.
        cpt=charged(effects) if effects.family is None else 0,
    )
    note(connection, ended)


def note_parent_end(connection: Connection, family: FamilyEffects, effects: Effects) -> None:
    """Of a task with several runs, where it ended."""
    ended, parent = family.ended, replicas.find(connection, family.task_id) if family.ended else None
    if ended is None or parent is None:
        return
    result = ended.result
    event = TaskEnded(
        task=parent.id,
        attempt=result.result_attempt if result is not None else "",
        node=result.node_id if result is not None else "",
        owner_id=parent.owner_id,
        kind=TaskKind.USER,
        tier=parent.tier,
        region=parent.region,
        state=ended.state,
        reason=ended.reason.code,
        exit_code=result.exit_code if result is not None else None,
        cpt=charged(effects),
    )
    note(connection, event)


def charged(effects: Effects) -> int:
    """What the owner of the task paid by it."""
    if effects.try_paid is not None:
        return effects.try_paid.bill.charged
    return effects.settlement.bill.charged if effects.settlement is not None else 0
