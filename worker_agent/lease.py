"""For how long a run may be without the pool before the agent ends it by itself. Pure.

An agent cannot tell its own partition from the pool's outage. It keeps its runs either way, and asks when
somebody answers; only what must never run twice at one moment is ended before the pool may give it away.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """`lease_seconds` without being heard end an exclusive run, `grace_seconds` without contact the others.

    No grace: the pool is older. It hears agents through the broker only, and gives all away after the lease.
    """

    lease_seconds: float
    grace_seconds: float
    report_period_seconds: float
    max_held: int  # attempts; above it the node refuses what the pool sends


# No lease before there is an enrolment.
NO_LIMITS = AgentLimits(
    lease_seconds=float("inf"), grace_seconds=float("inf"), report_period_seconds=1.0, max_held=0
)


@dataclass(slots=True)
class PoolContact:
    """When the pool was there last, by the agent's clock. `heard_at`: when it last said something that keeps
    the pool from taking this node for silent; answers to anything else count as contact only."""

    at: float
    heard_at: float = float("-inf")

    def enrolled(self, now: float, *, first: bool) -> None:
        """Before the first enrolment nothing was here that could be given away; the others are no report."""
        self.renew(now, now if first else float("-inf"))

    def is_over(self, limits: AgentLimits, now: float, *, exclusive: bool) -> bool:
        """Whether a run has been without the pool for longer than it may be."""
        if not limits.grace_seconds:
            return now - self.at > limits.lease_seconds
        if exclusive:
            return now - self.heard_at > limits.lease_seconds
        return now - self.at > limits.grace_seconds

    def may_be_given_away(self, limits: AgentLimits, now: float) -> bool:
        """There was none for so long that what runs here may run elsewhere by now."""
        return now - self.at > limits.lease_seconds

    def renew(self, now: float, heard_at: float = float("-inf")) -> None:
        self.at = max(self.at, now)
        self.heard_at = max(self.heard_at, heard_at)
