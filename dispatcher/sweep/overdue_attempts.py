"""Runs that their agent does not end when it must: at the task's bound, or when its owner asked for it.

The pool ends them itself, as it does on nodes without an agent: with the output that there is, paid up to
the bound and never beyond. Else its owner would wait, and pay, for as long as the node likes.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher, open_files
from dispatcher.push.outcomes import PushOutcomes
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.domain.tasks.states import Outcome
from nodepool.stores.sql.attempt_rows import LiveAttempt

log = logging.getLogger(__name__)

_SECONDS_PER_MINUTE = 60
# What an agent takes to fetch the package, end the run and send its result, beyond the run itself.
PATIENCE_SECONDS = 300.0
# Of more stops than these the oldest are forgotten, which gives their nodes full patience again.
_MAX_STOPS = 10_000


class OverdueAttempts:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._effects: PushOutcomes | None = None
        self._stops: dict[str, float] = {}

    def look(self, row: LiveAttempt, now: float, gateway_back_at: float) -> None:
        """`row` runs. No agent can end anything while no gateway serves."""
        if row.stop_requested:
            seen = self._stops.setdefault(row.id, now)
            if now - max(seen, gateway_back_at) > PATIENCE_SECONDS:
                self._end(row, Outcome.STOPPED, because(ReasonCode.STOPPED_BY_POOL))
            while len(self._stops) > _MAX_STOPS:
                self._stops.pop(next(iter(self._stops)))
        bound = (row.started_at or now) + row.max_minutes * _SECONDS_PER_MINUTE
        if now - max(bound, gateway_back_at) > PATIENCE_SECONDS:
            reason = because(ReasonCode.LONGEST_RUN_BY_POOL, minutes=row.max_minutes)
            self._end(row, Outcome.FAILED, reason)

    def _end(self, row: LiveAttempt, outcome: Outcome, reason: Reason) -> None:
        self._stops.pop(row.id, None)
        if self._effects is None:
            self._effects = PushOutcomes(self._dispatcher, open_files(self._dispatcher.settings))
        log.warning("attempt %s: %s", row.id, reason)
        self._effects.end(row.id, outcome, reason, at_bound=True, late=True, worked=self._worked(row))

    def _worked(self, row: LiveAttempt) -> bool:
        """Whether the node's last report says that the run uses a CPU."""
        report = self._dispatcher.registry.reports([row.node_id])[row.node_id]
        use = report.uses.get(row.id) if report is not None else None
        return use is not None and use.cpu_score > 0
