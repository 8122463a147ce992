"""The words of existing workers, which name a task and no attempt: whoever has the task now speaks for it.

Each becomes the same guarded effect that an agent's call has.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from sqlalchemy import Row

from gateway.context import Gateway
from gateway.tokens import Identity
from nodepool import ids
from nodepool.errors import InvalidInputError, NotFoundError, StaleAttemptError, TooLargeError
from nodepool.stores import task_store
from nodepool.stores.task_store import End
from nodepool.task import Outcome

_MAX_OUTPUT_BYTES = 1 << 20


def _attempt(gateway: Gateway, identity: Identity, task_id: str, node_id: str = "") -> Row[Any]:
    """The running attempt of a task that a node of the caller's has; it is claimed by speaking."""
    now = gateway.clock()
    task = gateway.database.read(lambda connection: task_store.find(connection, task_id))
    if not task.node_id or (node_id and node_id != task.node_id):
        raise StaleAttemptError(f"task {task_id!r} is not on that node; nothing was changed")
    attempt = ids.attempt_id(task_id, task.attempt_number)
    return gateway.database.write(
        lambda connection: task_store.claim_attempt(connection, attempt, task.node_id, identity.user_id, now)
    )


def store_output(gateway: Gateway, identity: Identity, task_id: str, node_id: str, output: str) -> None:
    data = output.encode()
    if len(data) > _MAX_OUTPUT_BYTES:
        raise InvalidInputError(f"send at most {_MAX_OUTPUT_BYTES} bytes of output at once")
    row = _attempt(gateway, identity, task_id, node_id)
    gateway.outputs.append(row.attempt_id, gateway.outputs.window(row.attempt_id).end, data)


def store_result(gateway: Gateway, identity: Identity, task_id: str, result: bytes) -> None:
    """Keep the result of the running attempt; it becomes the task's when the attempt ends."""
    limits = gateway.settings
    if len(result) > limits.max_result_bytes:
        raise TooLargeError(
            f"the result has {len(result)} bytes; at most {limits.max_result_bytes} are taken"
        )
    if not zipfile.is_zipfile(io.BytesIO(result)):
        raise InvalidInputError("result_zip is not a ZIP file")
    row = _attempt(gateway, identity, task_id)
    with gateway.files.result_writer(row.attempt_id) as writer:
        writer.write(result)
        writer.commit()


def running(gateway: Gateway, identity: Identity, task_id: str, node_id: str) -> bool:
    """Is the task to go on there? False when its owner has asked for its end."""
    return not _attempt(gateway, identity, task_id, node_id).stop_requested


def completed(gateway: Gateway, identity: Identity, task_id: str, node_id: str, *, success: bool) -> None:
    row = _attempt(gateway, identity, task_id, node_id)
    try:
        size = sum(len(chunk) for chunk in gateway.files.open_result(row.attempt_id))
    except NotFoundError:
        size = 0
    stopped = row.stop_requested
    outcome = Outcome.STOPPED if stopped else Outcome.SUCCEEDED if success else Outcome.FAILED
    reason = "stopped by its owner" if stopped else "" if success else "its node reported that it failed"
    end = End(
        outcome=outcome,
        exit_code=0 if outcome is Outcome.SUCCEEDED else None,
        reason=reason,
        result_bytes=size,
        has_result=size > 0,
    )
    gateway.lifecycle.end_attempt(row.attempt_id, row.attempt_node, identity.user_id, end)
