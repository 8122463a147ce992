"""Tasks that go: deleted by their owners, or removed by the pool after a while.

When what is removed is the dispatcher's (dispatcher/sweep/expired_tasks.py); here is what owners are told.
"""

from __future__ import annotations

import logging

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from gateway.messages import removed_text
from gateway.usecases import storage_quota
from nodepool.domain.errors import CorruptFileError, NotFoundError, UnavailableError
from nodepool.domain.money import ledger
from nodepool.domain.not_visible import no_task, removed_task
from nodepool.stores.redis.output import OutputWindow
from nodepool.stores.sql import removal as removal_store, restores
from nodepool.stores.sql.task_rows import OwnedTask

log = logging.getLogger(__name__)


def delete(gateway: Gateway, identity: CallerIdentity, task_id: str) -> None:
    """The task with all that it keeps. Raises NotFoundError, and StateConflictError while it cannot go yet.

    For SQL it is gone at once, and frees its owner's storage; what of the files stays the sweep removes.
    """
    now = gateway.clock()
    gateway.database.write(lambda c: removal_store.mark_deleted(c, task_id, identity.user_id, now))
    storage_quota.release(gateway, task_id)
    try:
        for attempt_id in gateway.database.read(lambda c: removal_store.attempts_of(c, task_id)):
            gateway.outputs.forget(attempt_id)
        gateway.outputs.announce(task_id)
    except UnavailableError as error:
        log.info("live output of %s ends by itself: %s", task_id, error)


def not_there(gateway: Gateway, identity: CallerIdentity | None, task_id: str) -> NotFoundError:
    """What somebody is told of a task that has no row, or that its owner deleted."""
    if identity is None:
        return no_task(task_id)
    account = ledger.user_account(identity.user_id)
    if gateway.database.read(lambda c: removal_store.had_hold(c, task_id, account)):
        return removed_task(task_id, gateway.settings.retention.task_told)
    restored = gateway.database.read(restores.last)
    return no_task(task_id, lost=None if restored is None else restored.lost_after(gateway.clock()))


def no_result(row: OwnedTask) -> NotFoundError:
    return NotFoundError(f"task {row.id!r} has no result any more: {removed_text(row)}")


def kept_output(gateway: Gateway, row: OwnedTask, attempt_id: str) -> OutputWindow:
    """Of a task whose result was removed: what is kept apart of it, or nothing."""
    if not row.log_bytes:
        return OutputWindow(0, b"")
    try:
        return OutputWindow(0, gateway.files.log_bytes(attempt_id))
    except (NotFoundError, CorruptFileError) as error:
        log.info("the output of %s is not there: %s", row.id, error)
        return OutputWindow(0, b"")
