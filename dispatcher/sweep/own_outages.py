"""The dispatcher's knowledge of its own outages, and what everybody in the sweep does when one is over.

While this process stood still, or while the broker, SQL or every gateway was away, no node could be heard
and none could begin or end anything. That is nobody's fault: see `nodepool/domain/outages.py`.
"""

from __future__ import annotations

from dispatcher.context import Dispatcher
from nodepool.domain.errors import UnavailableError
from nodepool.domain.outages import OutageCause, OwnOutages
from nodepool.events.outages import OutageTeller
from nodepool.metrics.catalogue import Part
from nodepool.stores.sql.attempt_rows import LiveAttempt

# In times NODE_LATE_SECONDS: shorter trouble changes nothing that anybody would notice.
_TOLERATED_SHARE = 1 / 3
# Until so long after an outage whoever lost a run of before it is not blamed: two periods to come back, and
# two to begin or list what is theirs.
BLAMELESS_PERIODS = 5
_SWEEP = "sweep"  # something that nobody has thought of
_PART_OF_CAUSE = {OutageCause.NO_GATEWAY: "gateway", OutageCause.FULL: "broker"}


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
        self._troubles: dict[str, str] = {}
        self._teller = OutageTeller(Part.DISPATCHER)
        self._blameless_seconds = BLAMELESS_PERIODS * late_seconds

    def failed(self, error: Exception) -> None:
        self._own.failed()
        part = error.part if isinstance(error, UnavailableError) and error.part else _SWEEP
        self._tell({**self._troubles, part: str(error)})

    def in_trouble(self, cause: OutageCause) -> None:
        self._own.failed(cause)
        # SQL and the broker have answered in this pass.
        self._tell({_PART_OF_CAUSE[cause]: cause})

    def worked(self) -> bool:
        """Whether an outage has just ended, so that nodes have time to report again."""
        self._tell({})
        outage = self._own.worked(self._dispatcher.steady())
        if outage is not None and outage.cause is OutageCause.STOOD_STILL:
            self._teller.stood_still(outage.seconds)
        return outage is not None

    def left_to_another(self) -> None:
        """Another dispatcher sweeps: the broker says so, and of all else this one finds nothing out."""
        self._tell({})

    def _tell(self, troubles: dict[str, str]) -> None:
        self._troubles = troubles
        self._teller.see(troubles, self._dispatcher.steady())

    def began_anew(self) -> None:
        """Redis lost its keys, or another dispatcher swept until now. So it is also at the start."""
        self._own.broke(self._dispatcher.steady(), OutageCause.FORGOTTEN)

    def explains(self, row: LiveAttempt) -> bool:
        """Whether the end of this attempt may be the work of an outage, and is nobody's fault."""
        age = self._dispatcher.clock() - (row.started_at or row.created_at)
        return self._own.explains(
            self._dispatcher.steady(), age_seconds=age, within_seconds=self._blameless_seconds
        )

    def was_whole(self) -> bool:
        """Nothing was away for so long that whoever is silent would have been heard."""
        since = self._dispatcher.steady() - self._own.last.ended_at
        return not self._own.is_troubled and since > self._blameless_seconds
