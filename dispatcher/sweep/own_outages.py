"""The dispatcher's knowledge of its own outages, and what everybody in the sweep does when one is over.

While this process stood still, or while the broker, SQL or every gateway was away, no node could be heard
and none could begin or end anything. That is nobody's fault: see `nodepool/domain/outages.py`.
"""

from __future__ import annotations

import logging

from dispatcher.context import Dispatcher
from nodepool.domain.outages import Outage, OutageCause, OwnOutages
from nodepool.stores.sql.attempt_rows import LiveAttempt

log = logging.getLogger(__name__)

# In times NODE_LATE_SECONDS: shorter trouble changes nothing that anybody would notice.
_TOLERATED_SHARE = 1 / 3
# Until so long after an outage whoever lost a run of before it is not blamed: two periods to come back, and
# two to begin or list what is theirs.
BLAMELESS_PERIODS = 5


class SweepOutages:
    """For one thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        late_seconds = dispatcher.settings.node_late_seconds
        self._own = OwnOutages(
            dispatcher.steady(),
            tolerated_seconds=late_seconds * _TOLERATED_SHARE,
            still_seconds=late_seconds,
        )
        self._blameless_seconds = BLAMELESS_PERIODS * late_seconds

    def failed(self) -> None:
        if self._own.failed():
            log.warning("an outage began, perhaps: the broker or SQL does not answer this dispatcher")

    def in_trouble(self, cause: OutageCause) -> None:
        if self._own.failed(cause):
            log.warning("an outage began, perhaps: %s", cause)

    def worked(self) -> bool:
        """Whether an outage has just ended."""
        return self._said(self._own.worked(self._dispatcher.steady()))

    def began_anew(self) -> None:
        """Redis lost its keys, or another dispatcher swept until now. So it is also at the start."""
        self._own.broke(self._dispatcher.steady(), OutageCause.FORGOTTEN)

    def explains(self, row: LiveAttempt) -> bool:
        """Whether the end of this attempt may be the work of an outage, and is nobody's fault."""
        age = self._dispatcher.clock() - (row.started_at or row.created_at)
        return self._own.explains(
            self._dispatcher.steady(), age_seconds=age, within_seconds=self._blameless_seconds
        )

    def _said(self, outage: Outage | None) -> bool:
        if outage is not None:
            log.warning(
                "an outage of the pool ended after %.1f s (%s): nodes have time to report again, and what "
                "ends by it is held against nobody",
                outage.seconds,
                outage.cause,
            )
        return outage is not None
