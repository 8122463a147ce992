"""What decisions on ends of runs are made with, out of the settings and the system's random source."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from nodepool.domain.ends.effects import EndDecision, EndRules, Tickets
from nodepool.domain.trust.audits import Rules
from nodepool.domain.trust.credit_moves import Score
from nodepool.domain.trust.provisional import TrustFacts
from nodepool.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """The rules, the time and the chance of one decision. `allow_pushed`: nodes without an agent get work."""

    now: float
    rules: EndRules
    tickets: Tickets
    allow_pushed: bool = True

    def decision(
        self, trust: TrustFacts | None = None, scores: Mapping[int, Score] | None = None
    ) -> EndDecision:
        """One that no end of an attempt brings about."""
        return EndDecision(now=self.now, rules=self.rules, tickets=self.tickets, trust=trust, scores=scores)


def deciding(settings: Settings, now: float) -> Deciding:
    chance = secrets.SystemRandom()  # which result is checked must not be foreseen
    return Deciding(
        now=now,
        allow_pushed=settings.push_to_nodes,
        rules=EndRules(
            max_attempts=settings.max_attempts,
            start_score=settings.newcomer_credit_score,
            history=settings.history_rules,
            audits=Rules(
                audit_share=settings.audit_share,
                audit_share_least=settings.audit_share_least,
                spot_share=settings.spot_check_share,
                least_owners=settings.check_owners_least,
            ),
        ),
        tickets=Tickets(draw=chance.random(), spot=chance.random()),
    )
