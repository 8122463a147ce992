"""How runs of one task are compared, and who may run it for comparison. Pure.

A vote is one finished run: the digest of what its node returned. The digest covers the exit code as well as
the declared outputs, or a node could claim that every task fails by its own fault and be paid for it. A run
that was lost, refused or stopped is no vote; another takes its place.

How the product uses it
- After every run of a task with more than one: `count_votes(votes, replicas=...)`, votes in the order in
  which they came. `MORE` says how many runs to add (`wanted`). The others are final.
- Whose next: `may_check(...)` gives the nodes to choose from, by chance. Not the best one: a node that
  makes itself attractive must not be drawn for a friend's task.
- When there is nobody left to ask: `count_votes(..., no_more=True)`.
- A node must not be able to tell a check from any other task: it has an id of its own and no parent.

Of one owner's nodes only the first vote counts, whatever the placement did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from nodepool.domain.trust.tiers import Tier

MAX_REPLICAS = 5
# Runs of one task, ties and all, after which it is given up as not comparable.
MOST_VOTES = 5
MOST_VOTES_OVER_REPLICAS = 2
# So many owners who agree are believed although the pool knows none of them.
UNKNOWN_VOICES = 3
# So many trusted owners who differ from the majority say more about the task than about themselves.
TRUSTED_DISSENTERS = 2


class Verdict(StrEnum):
    AGREED = "agreed"
    MORE = "more"
    # Too many answers, or nobody left to ask. Nobody is blamed, and no digest is better than another.
    UNDECIDED = "undecided"


class Finding(StrEnum):
    """What the comparison says of one run."""

    VERIFIED = "verified"  # it is paid, and counts for its node and owner
    DIFFERED = "differed"  # it is not paid, and counts against them
    UNDECIDED = "undecided"  # says nothing of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    run_id: str
    owner_id: int
    digest: str
    # verification.is_trusted, or a node above the lowest tier.
    trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    verdict: Verdict
    digest: str = ""  # of the majority, when agreed
    wanted: int = 0  # runs to add, when there must be more
    findings: Mapping[str, Finding] = field(default_factory=dict)  # by run id; empty while open


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker:
    """A node that could run the task for comparison: alive, with room, not paused."""

    node_id: str
    owner_id: int
    tier: Tier
    trusted: bool


def count_votes(votes: Sequence[Vote], *, replicas: int = 2, no_more: bool = False) -> Count:
    """`replicas`: runs that there are to be at least; an audit has 2."""
    voices = list({vote.owner_id: vote for vote in reversed(votes)}.values())
    if len(voices) < replicas and not no_more:
        return Count(verdict=Verdict.MORE, wanted=replicas - len(voices))
    digest = _majority(voices, no_more=no_more)
    if digest is not None:
        return Count(verdict=Verdict.AGREED, digest=digest, findings=_findings(votes, voices, digest))
    if no_more or len(voices) >= max(MOST_VOTES, replicas + MOST_VOTES_OVER_REPLICAS):
        findings = {vote.run_id: Finding.UNDECIDED for vote in votes}
        return Count(verdict=Verdict.UNDECIDED, findings=findings)
    return Count(verdict=Verdict.MORE, wanted=1)


def _majority(voices: Sequence[Vote], *, no_more: bool) -> str | None:
    """More than any other answer has, and enough to be believed; None: ask on."""
    leaders = Counter(vote.digest for vote in voices).most_common(2)
    if not leaders or (len(leaders) == 2 and leaders[0][1] == leaders[1][1]):
        return None
    digest, support = leaders[0]
    known = any(vote.trusted for vote in voices if vote.digest == digest)
    if support >= UNKNOWN_VOICES or (support >= 2 and (known or no_more)):
        return digest
    return None


def _findings(votes: Sequence[Vote], voices: Sequence[Vote], digest: str) -> dict[str, Finding]:
    counted = {vote.run_id for vote in voices}
    dissenters = sum(vote.trusted for vote in voices if vote.digest != digest)
    against = Finding.UNDECIDED if dissenters >= TRUSTED_DISSENTERS else Finding.DIFFERED
    findings = {}
    for vote in votes:
        if vote.run_id not in counted:
            findings[vote.run_id] = Finding.UNDECIDED
        else:
            findings[vote.run_id] = Finding.VERIFIED if vote.digest == digest else against
    return findings


def may_check(
    candidates: Iterable[Checker], voted_owners: Collection[int], *, disputed: bool
) -> list[Checker]:
    """Whom to choose from, by chance, for the next run of a task on which these owners have a run.

    Trusted nodes where there are any, because a newcomer's word decides nothing. In a dispute, nodes above
    the lowest tier where there are any. Empty: nobody of another owner is there.
    """
    others = [checker for checker in candidates if checker.owner_id not in voted_owners]
    trusted = [checker for checker in others if checker.trusted or checker.tier is not Tier.LOW]
    above = [checker for checker in trusted if checker.tier is not Tier.LOW]
    return (above if disputed else []) or trusted or others
