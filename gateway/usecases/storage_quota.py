"""What an account keeps in the pool's storage, and how much that may be.

The bound is the lower one of MAX_STORED_MB_PER_USER and of what the credit score opens. It is asked when a
task is submitted; results of what runs are always kept.
"""

from __future__ import annotations

import logging

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import NodePoolError
from nodepool.domain.tasks.new_task import PricedTask
from nodepool.domain.trust import access_limits
from nodepool.stores.sql import storage_accounting
from nodepool.workflows import stored_files

log = logging.getLogger(__name__)
_MIB = 1 << 20


def bound(gateway: Gateway, score: int) -> int:
    """The most bytes that an account of this credit score may keep."""
    return min(gateway.settings.max_stored_mb_per_user, access_limits.limits_of(score).stored_mb) * _MIB


def check_room(gateway: Gateway, owner: CallerIdentity, score: int, stored: int, columns: PricedTask) -> None:
    """Raises StorageBoundError where the new task's package does not fit. `columns` are the task's.

    Before anybody is refused what they keep is counted anew.
    """
    most, size = bound(gateway, score), columns["package_bytes"]
    if stored + size <= most:
        return
    counted = gateway.database.write(lambda connection: storage_accounting.recount(connection, owner.user_id))
    gateway.database.read(
        lambda connection: storage_accounting.check_fits(connection, columns, counted, most)
    )


def discard(gateway: Gateway, sha256: str) -> None:
    """Remove the package, unless a task needs it."""
    try:
        stored_files.discard(gateway.database, gateway.files, sha256)
    except NodePoolError as error:
        log.warning("a package that no task needs stays on the disk: %s", error)


def release(gateway: Gateway, task_id: str) -> None:
    """What the task, which has ended, need not keep. The sweep does it too."""
    try:
        stored_files.settle(gateway.database, gateway.files, [task_id])
    except NodePoolError as error:
        log.warning("what task %s kept is released by the sweep: %s", task_id, error)
