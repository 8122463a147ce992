"""Attempts that their living node never begins, or does not speak of: they go elsewhere.

For how long that has been so is counted by the dispatcher's own clock, and begins anew with every outage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dispatcher.context import Dispatcher
from nodepool.domain.patience import Patience
from nodepool.domain.tasks.reasons import Reason, ReasonCode, because
from nodepool.stores.redis.node_registry import NodeReport
from nodepool.stores.sql.attempt_rows import LiveAttempt

# In times NODE_LATE_SECONDS.
FORGOTTEN_PERIODS = 2


class ForgottenAttempts:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._not_begun = Patience()
        self._not_listed = Patience()

    def begin_anew(self) -> None:
        """Nobody could begin anything, or say so, until now."""
        self._not_begun.begin_anew()
        self._not_listed.begin_anew()

    def keep_only(self, attempt_ids: Collection[str]) -> None:
        self._not_begun.keep_only(attempt_ids)
        self._not_listed.keep_only(attempt_ids)

    def why_lost(self, row: LiveAttempt, report: NodeReport | None) -> Reason | None:
        """None where it is in order, or may still be."""
        now, late_seconds = self._dispatcher.steady(), self._dispatcher.settings.node_late_seconds
        patience = FORGOTTEN_PERIODS * late_seconds
        is_silent = report is None or report.age_seconds > late_seconds
        not_begun = self._not_begun.seconds(row.id, now, is_so=row.started_at is None)
        not_listed = self._not_listed.seconds(
            row.id, now, is_so=report is not None and not is_silent and row.id not in report.running
        )
        if not_begun > patience:
            return because(ReasonCode.NEVER_BEGUN, node=row.node_id)
        if not_listed > patience:
            return because(ReasonCode.NOT_LISTED, node=row.node_id)
        return None


def ids_of(live: Mapping[str, Collection[LiveAttempt]]) -> set[str]:
    return {row.id for rows in live.values() for row in rows}
