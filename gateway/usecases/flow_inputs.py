"""Results of other steps of a flow, as an attempt's node is told of them and fetches them.

A node gets them for an attempt that it runs, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import InvalidInputError
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql import flow_inputs, tasks as task_store
from nodepool.stores.sql.database import Connection
from nodepool.stores.sql.flow_inputs import FlowInput


def told(gateway: Gateway, job_id: str, job_index: int) -> list[pb.AttemptInput]:
    """`job_index` is that among all tasks of the flow."""
    found = gateway.database.read(lambda c: flow_inputs.of_task(c, job_id, job_index)) if job_id else []
    return [pb.AttemptInput(path=one.path, result_bytes=one.result_bytes) for one in found]


def chunks(gateway: Gateway, identity: CallerIdentity, request: pb.FetchInputRequest) -> Iterator[bytes]:
    """Raises NotFoundError and StaleAttemptError for what the node does not run."""

    def look(connection: Connection) -> list[FlowInput]:
        task = task_store.live_attempt(connection, request.attempt_id, request.node_id, identity.user_id)
        return flow_inputs.of_task(connection, task.job_id, task.flow_index)

    found = gateway.database.read(look)
    if not 0 <= request.number < len(found):
        raise InvalidInputError(f"this attempt has {len(found)} inputs, and none of number {request.number}")
    return gateway.files.open_result(found[request.number].attempt_id)
