"""The agent's report through a gateway: while the broker is not reached, and to ask what is still its own.

One try each; the next report comes soon. Knows no rules of what an answer means.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from nodepool.domain.errors import NodePoolError
from nodepool.protocol import nodepool_pb2 as pb
from worker_agent.gateway_client import GatewayClient
from worker_agent.output_stream import monotonic_seconds
from worker_agent.registration import Registration
from worker_agent.state import AssignedListing, PoolAnswered

log = structlog.get_logger(__name__)


class GatewayReports:
    """Thread-safe."""

    def __init__(
        self,
        link: GatewayClient,
        membership: Registration,
        collect: Callable[[], Mapping[str, Any]],
        on_answer: Callable[[PoolAnswered], object],
    ) -> None:
        self._link = link
        self._membership = membership
        self._collect = collect
        self._on_answer = on_answer
        self._asking = threading.Lock()
        self.wanted = False  # an older pool hears agents through the broker only

    def send(self, report: bytes) -> None:
        """Blocks for a few seconds at the most."""
        if not self.wanted:
            return
        request = pb.ReportAgentRequest(
            node_id=self._membership.node_id, instance=self._membership.instance, report=report
        )
        sent_at = monotonic_seconds()
        try:
            answer = self._link.report(request)
        except NodePoolError as error:
            log.debug("no gateway heard the report", action="report.unheard", why=str(error))
            return
        assigned = {it.attempt_id: AssignedListing(it.stop_requested) for it in answer.attempts}
        self._on_answer(PoolAnswered(assigned, monotonic_seconds(), sent_at, answer.heard))

    def ask(self) -> None:
        """Returns at once. Once at a time is enough."""
        threading.Thread(target=self._ask, name="ask pool", daemon=True).start()

    def _ask(self) -> None:
        if not self._asking.acquire(blocking=False):
            return
        try:
            log.info("the pool is asked what is still this node's", action="attempts.asked")
            self.send(json.dumps(self._collect()).encode())
        finally:
            self._asking.release()
