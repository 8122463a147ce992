"""What a new task or job comes after: named by its owner, checked, and what its row says meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodepool.domain.errors import StateConflictError
from nodepool.domain.tasks.dependencies import (
    Need,
    check_named,
    from_lines,
    to_lines,
    waits_for,
)
from nodepool.domain.tasks.new_task import RequestedOrder, RequestedTask
from nodepool.domain.tasks.states import TaskState
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import dependencies
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.reason_columns import reason_columns


def order_of(request: pb.UploadTaskRequest) -> RequestedOrder:
    """Raises InvalidInputError."""
    check_named(request.task_id, request.after, request.after_any)
    return {"after": to_lines(request.after), "after_any": to_lines(request.after_any)}


def unmet(connection: Connection, columns: RequestedTask, owner_id: int) -> list[Need]:
    """What is still to come of what it names.

    Raises NotFoundError for what is no task or job of the owner's, and StateConflictError for what has ended
    so that it would never run.
    """
    after, after_any = from_lines(columns["after"]), from_lines(columns["after_any"])
    if not after and not after_any:
        return []
    needs = dependencies.named(connection, owner_id, after, after_any)
    broken = next((need for need in needs if need.is_broken), None)
    if broken is not None:
        raise StateConflictError(
            f"nothing can come after the success of {broken.unit}, which {broken.standing.bad}: let it come "
            "after that however it ended (--after-any), or run that again first"
        )
    return [need for need in needs if not need.is_met]


def waiting(needs: Sequence[Need]) -> dict[str, Any]:
    """Columns of a task that waits for these; none where there are none."""
    return {"state": TaskState.WAITING, **reason_columns(waits_for(needs))} if needs else {}
