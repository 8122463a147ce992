"""When the pool itself was away, as one of its processes knows it by its own clock. Pure.

An agent that was silent then could not be heard, and what ended by it is nobody's fault. A process knows
that it was stopped because its own clock went on without it, that something it needs did not answer, and
that before its start it knows nothing at all. Knows no store, no agent and no wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OutageCause(StrEnum):
    STARTED = "this process was not there"
    STOOD_STILL = "this process stood still"
    UNREACHABLE = "something that it needs did not answer"
    FORGOTTEN = "Redis had forgotten what it knew, or another process was in charge"
    NO_GATEWAY = "no gateway served"
    FULL = "Redis was full"


@dataclass(frozen=True, slots=True)
class Outage:
    """One that is over."""

    began_at: float
    ended_at: float
    cause: OutageCause

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


class OwnOutages:
    """For one thread; `explains` may be asked from any. Times are seconds of one steady clock.

    Trouble that is over within `tolerated_seconds` is none. Without trouble the process has stood still when
    it did nothing for `still_seconds`.
    """

    def __init__(self, now: float, *, tolerated_seconds: float, still_seconds: float) -> None:
        self._tolerated_seconds = tolerated_seconds
        self._still_seconds = still_seconds
        self._worked_at = now
        self._trouble: OutageCause | None = None
        self.last = Outage(now, now, OutageCause.STARTED)

    def worked(self, now: float) -> Outage | None:
        """All that is needed answered. Returns the outage that ended by it."""
        gap, cause = now - self._worked_at, self._trouble
        began_at, self._worked_at, self._trouble = self._worked_at, now, None
        if gap > self._still_seconds:
            cause = cause or OutageCause.STOOD_STILL
        elif cause is None or gap <= self._tolerated_seconds:
            return None
        return self._ended(Outage(began_at, now, cause))

    def failed(self, cause: OutageCause = OutageCause.UNREACHABLE) -> bool:
        """Something does not answer. True where it is the first time since all did."""
        is_first, self._trouble = self._trouble is None, self._trouble or cause
        return is_first

    def broke(self, now: float, cause: OutageCause) -> Outage:
        """What was known until now cannot be relied on, however short it was."""
        return self._ended(Outage(self._worked_at, now, cause))

    @property
    def is_troubled(self) -> bool:
        return self._trouble is not None

    def explains(self, now: float, *, age_seconds: float, within_seconds: float) -> bool:
        """Whether the pool was away while something of this age was there, and is still or was just now."""
        if self._trouble is not None:
            return True
        since = now - self.last.ended_at
        return since <= within_seconds and since < age_seconds

    def _ended(self, outage: Outage) -> Outage:
        self.last = outage
        return outage
