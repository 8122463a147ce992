"""What operators ask of other people's tasks: lists, one task, why it waits, what it said, and to stop it.

Every look is an act: it is kept before anything is answered. What a task is given, its package and its result
are not shown to operators at all, and its output only where the pool's settings say so (docs/operations.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import is_final
from gateway.usecases import task_lists, tasks
from gateway.usecases.admin import check_reason, find_user
from nodepool.domain import ids
from nodepool.domain.errors import InvalidInputError, NotFoundError, PermissionDeniedError
from nodepool.domain.tasks.states import TaskKind
from nodepool.domain.tasks.task_filter import TaskFilter
from nodepool.stores.sql import admin as admin_store, jobs as job_store, tasks as task_store
from nodepool.stores.sql.attempt_rows import PastAttempt
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import OwnedTask, ShownRun, WholeTask

_LOGS_ARE_OFF = (
    "operators of this pool do not read what tasks of others say: set ADMIN_READS_LOGS=true on its gateways "
    "to allow it; each look is kept with its reason"
)


@dataclass(frozen=True, slots=True)
class ShownTask:
    row: OwnedTask
    attempts: Sequence[PastAttempt]
    runs: Sequence[ShownRun]


def list_all(
    gateway: Gateway,
    admin: CallerIdentity,
    wanted: TaskFilter,
    username: str,
    page_size: int,
    page_token: str,
) -> tuple[Sequence[OwnedTask], str]:
    """A page of one user's tasks, or of everybody's, and the token of the next."""
    if wanted.name and not username:
        raise InvalidInputError("names of tasks are looked for among one user's: name the user, too")
    owner_id = None
    if username:
        owner_id = gateway.database.read(lambda c: find_user(c, username).id)
    _keep(gateway, admin, "list-tasks", username, _asked(wanted))
    return task_lists.page_of(
        gateway, admin, wanted, page_size=page_size, page_token=page_token, owner_id=owner_id
    )


def show(gateway: Gateway, admin: CallerIdentity, task_id: str) -> ShownTask:
    row = _look(gateway, admin, "show-task", task_id)
    return ShownTask(row, tasks.attempts_of_task(gateway, row), tasks.runs_of_task(gateway, row))


def to_explain(gateway: Gateway, admin: CallerIdentity, task_id: str) -> WholeTask:
    return _look(gateway, admin, "explain-task", task_id)


def to_read(gateway: Gateway, admin: CallerIdentity, task_id: str, reason: str) -> WholeTask:
    """Raises PermissionDeniedError where the settings do not say that operators may."""
    if not gateway.settings.admin_reads_logs:
        raise PermissionDeniedError(_LOGS_ARE_OFF)
    return _look(gateway, admin, "read-task-logs", task_id, {"reason": check_reason(reason)})


def stop(gateway: Gateway, admin: CallerIdentity, task_id: str, reason: str) -> str:
    """The act and the wish are kept together."""
    detail = {"reason": check_reason(reason)}
    now = gateway.clock()
    row = _find(gateway, task_id)
    if is_final(row):
        return f"task {row.id} of {row.owner} has ended already; nothing was changed"

    def keep(connection: Connection) -> None:
        _record(connection, admin, "stop-task", row, detail, now)
        admin_store.mark_stopped(connection, row.id)

    tasks.stop_found(gateway, row.id, keep)
    return f"task {row.id} of {row.owner} is being stopped"


def _look(
    gateway: Gateway,
    admin: CallerIdentity,
    action: str,
    task_id: str,
    detail: Mapping[str, Any] = {},
) -> WholeTask:
    row, now = _find(gateway, task_id), gateway.clock()
    gateway.database.write(lambda c: _record(c, admin, action, row, detail, now))
    return row


def _find(gateway: Gateway, task_id: str) -> WholeTask:
    ids.check_task_id(task_id)
    row = gateway.database.read(lambda c: task_store.find_or_none(c, task_id))
    # What is put in with others is there for nobody before all are.
    there = row is not None and row.kind == TaskKind.USER and not row.deleted_at
    if row is not None and row.job_id and there:
        there = gateway.database.read(lambda c: job_store.is_accepted(c, row.job_id))
    if row is None or not there:
        raise NotFoundError(
            f"there is no task {task_id!r}; the tasks of a job are told by: hivemind admin tasks --job JOB"
        )
    return row


def _record(
    connection: Connection,
    admin: CallerIdentity,
    action: str,
    row: OwnedTask,
    detail: Mapping[str, Any],
    now: float,
) -> None:
    admin_store.record(connection, admin.username, action, row.id, {"owner": row.owner, **detail}, now)


def _keep(
    gateway: Gateway, admin: CallerIdentity, action: str, subject: str, detail: Mapping[str, Any]
) -> None:
    now = gateway.clock()
    gateway.database.write(lambda c: admin_store.record(c, admin.username, action, subject, detail, now))


def _asked(wanted: TaskFilter) -> dict[str, Any]:
    """What was asked for, without what was not."""
    told = {
        "name": wanted.name,
        "labels": dict(wanted.labels),
        "states": [state.value for state in wanted.states],
        "node": wanted.node_id,
        "job": wanted.job_id,
        "since": wanted.since,
        "until": wanted.until,
    }
    return {key: value for key, value in told.items() if value}
