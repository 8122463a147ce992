"""Why a task waits: the words for its owner."""

from __future__ import annotations

from gateway import tasks, views
from gateway.context import Gateway
from gateway.tokens import Identity
from proto import nodepool_pb2 as pb


def explain(gateway: Gateway, identity: Identity, request: pb.ExplainTaskRequest) -> pb.ExplainTaskResponse:
    row = tasks.find_own(gateway, identity, request.task_id)
    return pb.ExplainTaskResponse(success=True, message=views.status_message(row), state=row.state)
