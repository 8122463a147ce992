"""An agent that does not reach the broker is heard through a gateway, and learns what SQL says is its own.

Where Redis is away for this gateway too, SQL notes that the node was heard of: the sweep looks there before
it gives a node's work away.
"""

from __future__ import annotations

import logging

from gateway.auth.tokens import CallerIdentity
from gateway.context import Gateway
from nodepool.domain.errors import InvalidInputError, StateConflictError, UnavailableError
from nodepool.domain.nodes.node import NodeKind
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.redis import agent_instances
from nodepool.stores.redis.node_registry import MAX_REPORT_BYTES
from nodepool.stores.sql import nodes as node_store, tasks as task_store

log = logging.getLogger(__name__)


def report(
    gateway: Gateway, identity: CallerIdentity, request: pb.ReportAgentRequest
) -> pb.ReportAgentResponse:
    """Raises StateConflictError for a node that has left, or that another start of an agent has."""
    if len(request.report) > MAX_REPORT_BYTES:
        raise InvalidInputError(f"a report has at most {MAX_REPORT_BYTES} bytes, not {len(request.report)}")
    row, live = gateway.database.read(
        lambda c: (
            node_store.find_own(c, request.node_id, identity.user_id),
            task_store.live_attempts(c, request.node_id),
        )
    )
    if row.kind != NodeKind.AGENT or not row.active:
        raise StateConflictError(f"register {request.node_id!r} with kind 'agent' first")
    _hear(gateway, request)
    return pb.ReportAgentResponse(
        heard=True,
        attempts=[pb.AssignedAttempt(attempt_id=it.id, stop_requested=it.stop_requested) for it in live],
    )


def _hear(gateway: Gateway, request: pb.ReportAgentRequest) -> None:
    if not gateway.outages.is_troubled:  # or each of these calls would wait for Redis in vain
        try:
            agent_instances.check(gateway.redis, request.node_id, request.instance)
            gateway.registry.take_report(request.node_id, request.report)
        except UnavailableError as error:
            log.warning("node %s is heard of, and Redis cannot be told: %s", request.node_id, error)
        else:
            return
    gateway.database.write(lambda c: node_store.note_heard(c, request.node_id, gateway.clock()))
