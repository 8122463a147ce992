"""Whether a run may be in a sandbox that has run its owner's tasks before, as its node is told.

Knows nothing of how nodes keep sandboxes.
"""

from __future__ import annotations

from typing import Any

from gateway.context import Gateway
from nodepool.stores.sql import users as user_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.task_rows import AssignedTask

_SECONDS_PER_MINUTE = 60
_CHARACTERS = 32


def is_pools_own(gateway: Gateway, connection: Connection, row: AssignedTask) -> bool:
    """A probe, which must look like anybody's task. Not looked up where nobody is told."""
    if not gateway.settings.warm_sandbox_tasks:
        return False
    owner = user_store.account_status(connection, row.owner_id)
    return owner is not None and owner.role == user_store.SYSTEM_ROLE


def reuse_of(gateway: Gateway, row: AssignedTask, node_id: str, *, pools_own: bool) -> dict[str, Any]:
    """Fields of AttemptSpec. The word for the owner is another one on each node, and for each probe."""
    settings = gateway.settings
    if settings.warm_sandbox_tasks < 2 or row.fresh or row.secrets:
        return {}
    whose = ["probe", row.attempt_id] if pools_own else ["owner", row.owner_id]
    return {
        "sandbox_owner": gateway.tokens.fingerprint(repr(["sandbox", node_id, *whose]))[:_CHARACTERS],
        "sandbox_tasks": settings.warm_sandbox_tasks,
        "sandbox_idle_seconds": settings.warm_sandbox_idle_minutes * _SECONDS_PER_MINUTE,
    }
