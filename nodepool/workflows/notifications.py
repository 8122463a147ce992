"""Notifications as they are written into SQL, beside what they tell of: the sweep's and the gateway's.

In one transaction with the note that they are there, so that each end is told once to each target. Sends
nothing: dispatcher.notify does, from what is written here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from nodepool.domain.notifications import events
from nodepool.domain.notifications.delivery import DeliveryState, NotificationKind, first_try_at
from nodepool.domain.tasks.dependencies import from_lines
from nodepool.domain.tasks.reasons import ReasonCode, because
from nodepool.domain.tasks.run_inputs import mapping_from_json
from nodepool.domain.tasks.states import TaskState
from nodepool.stores.sql import ends_to_tell, jobs as job_store, notifications, notify_targets
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.ends_to_tell import TaskToTell
from nodepool.stores.sql.job_rows import StoredJob
from nodepool.stores.sql.notifications import StoredNotification
from nodepool.stores.sql.notify_targets import StoredTarget

_ID_BYTES = 16
_STOPPED_BY_OPERATOR = because(ReasonCode.STOPPED_BY_OPERATOR)
TARGET_GONE = "the target is removed"


def key_place(target_id: str) -> str:
    """Under which a target's key is sealed; no secret of a user has such a name."""
    return f"notify/{target_id}"


def new_id() -> str:
    return f"msg_{secrets.token_hex(_ID_BYTES)}"


def write(
    connection: Connection,
    target: StoredTarget,
    kind: NotificationKind,
    body: str,
    now: float,
    *,
    per_minute: int,
    subject_id: str = "",
) -> str:
    """The new one's id. No more than `per_minute` of a user are first tried within a minute."""
    earlier = notifications.first_due_before(connection, target.user_id, per_minute)
    first = first_try_at(now, earlier)
    notification = StoredNotification(
        id=new_id(),
        user_id=target.user_id,
        target_id=target.id,
        target=target.name,
        receiver=target.receiver,
        kind=kind,
        subject_id=subject_id,
        body=body,
        state=DeliveryState.WAITING,
        tries=0,
        created_at=now,
        first_due_at=first,
        due_at=first,
        ended_at=None,
        words="",
    )
    notifications.add(connection, notification)
    return notification.id


def tell_of_task(connection: Connection, row: TaskToTell, now: float, *, per_minute: int) -> int:
    """How many are told."""
    if not ends_to_tell.mark_task(connection, row.id, now):
        return 0
    body = events.task_body(_told_task(row))
    names = from_lines(row.notify)
    return _tell(connection, row.owner_id, names, NotificationKind.TASK, row.id, body, now, per_minute)


def tell_of_job(connection: Connection, job: StoredJob, now: float, *, per_minute: int) -> int:
    if not ends_to_tell.mark_job(connection, job.id, now):
        return 0
    counts = job_store.counts(connection, [job.id]).get(job.id, {})
    body = events.job_body(_told_job(job, counts, job_store.money(connection, job.id).paid))
    names = from_lines(job.notify)
    return _tell(connection, job.owner_id, names, NotificationKind.JOB, job.id, body, now, per_minute)


def _tell(
    connection: Connection,
    owner_id: int,
    names: Sequence[str],
    kind: NotificationKind,
    subject_id: str,
    body: str,
    now: float,
    per_minute: int,
) -> int:
    known = {it.name: it for it in notify_targets.of_names(connection, owner_id, names)}
    for name in names:
        if name in known:
            write(connection, known[name], kind, body, now, per_minute=per_minute, subject_id=subject_id)
        else:
            _note_dropped(connection, owner_id, name, kind, subject_id, now)
    return len(known)


def _note_dropped(
    connection: Connection, owner_id: int, name: str, kind: NotificationKind, subject_id: str, now: float
) -> None:
    """It was removed after the task was sent: that is seen where the task is shown."""
    gone = StoredNotification(
        id=new_id(),
        user_id=owner_id,
        target_id="",
        target=name,
        receiver="",
        kind=kind,
        subject_id=subject_id,
        body="",
        state=DeliveryState.DROPPED,
        tries=0,
        created_at=now,
        first_due_at=0.0,
        due_at=now,
        ended_at=now,
        words=TARGET_GONE,
    )
    notifications.add(connection, gone)


def _told_task(row: TaskToTell) -> events.ToldTask:
    by_operator = row.state is TaskState.STOPPED and row.stopped_by_operator
    return events.ToldTask(
        id=row.id,
        name=row.name,
        labels=mapping_from_json(row.labels),
        state=row.state,
        # Its node knows of no operator, and says that its owner stopped it.
        reason=str(_STOPPED_BY_OPERATOR) if by_operator else row.reason,
        reason_code=ReasonCode.STOPPED_BY_OPERATOR if by_operator else row.reason_code,
        exit_code=row.exit_code,
        node=row.node_id,
        # With several runs, each has attempts of its own.
        attempts=row.attempt_number if row.replicas == 1 else min(1, row.attempt_number),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        paid_cpt=row.paid_cpt or 0,
        job_id=row.job_id,
        resubmit_of=row.resubmit_of,
    )


def _told_job(job: StoredJob, counts: Mapping[str, int], paid: int) -> events.ToldJob:
    return events.ToldJob(
        id=job.id,
        kind=job.kind,
        name=job.name,
        labels=mapping_from_json(job.labels),
        tasks=job.count,
        counts=counts,
        created_at=job.created_at,
        finished_at=job.ended_at or 0.0,
        paid_cpt=paid,
        was_stopped=job.stop_requested,
        resubmit_of=job.resubmit_of,
    )
