"""When a result of a low-trust node is checked, and what follows for its node and owner. Pure.

The time and every random number are passed in. How runs are compared is in `domain/trust/voting.py`; why the
rules are so, in docs/adr/0014-results-wait-in-blocks.md; what they achieve, `python -m benchmarks.cheaters`.

The rule
- Every result of a low-trust node goes into the node's open block and is provisional: kept, shown as
  pending, not paid. A full block is audited: one of its results, drawn in secret after all of them have
  come in, is run again by another owner's node. It agrees: the block stands, all of it is paid. It differs:
  all that the node has not been paid yet is recalled, which means not paid and run again elsewhere.
- A newcomer's block has one result, so that everything is checked. With verified results in a row blocks
  grow: 1 / AUDIT_SHARE results when the node becomes trusted, 1 / AUDIT_SHARE_LEAST in the end.
- A result that differs is a strike for the owner and takes the node back to the start. Each strike doubles
  the way to trust for all nodes of the owner, and the pause in which the node gets no low-trust work. A
  strike is forgiven after many verified results without another, twice as many with each strike.
- A node that is not trusted gets one task at a time, as on probation, once there is somebody to prefer.
- One error of an owner with a good record does not cost the right results of the block (`Change.lenient`).

What is kept
- users:  strikes INTEGER 0, clean INTEGER 0               -> OwnerRecord
- nodes:  verified INTEGER 0, paused_until FLOAT 0         -> NodeRecord
- provisional_results: task_id (key), attempt_id, node_id (index), owner_id, digest, finished_at,
  block VARCHAR '' (index; '' while open, then the id of its audit), drawn BOOLEAN false
  A row lives from the result until its block has passed or is recalled.

Who asks these rules: `nodepool/domain/ends` decides with them what follows from the end of a run
(`attempt_end.py` whether its result waits, `check_end.py` what a check says of the block that it was drawn
from), and `provisional.py` keeps which results wait in which block. The sweep asks for what passes with time:
a block that closes, a check that finds no node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from nodepool.domain.trust.voting import Finding

# Verified in a row below which everything is checked, and those that make a node trusted. Doubled by strikes.
NEWCOMER_CHECKS = 10
TRUSTED_AFTER = 60
# Verified results of the owner without a strike that take off the first strike. Doubled by further ones.
FORGIVEN_AFTER = 200
MOST_STRIKES = 6
FIRST_PAUSE_SECONDS = 3600.0
# A block closes after this time with what is in it: nobody waits longer for their money.
MOST_BLOCK_SECONDS = 86400.0
# However small AUDIT_SHARE_LEAST is: never never.
MOST_BLOCK_SIZE = 1000
# A run may take so many times the minutes of the longest of those that agree with it, and some more.
FAIR_TIMES, FAIR_MORE_MINUTES = 2, 1
# Results that the pool checks of a node that user-ordered runs have refuted.
WATCHED = 3
# Longer rows say nothing more.
MOST_VERIFIED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The operator's choices: AUDIT_SHARE and so on. An audit share of 0 turns all checks off."""

    audit_share: float = 0.1
    audit_share_least: float = 0.01
    spot_share: float = 0.0  # of results of nodes above low trust
    least_owners: int = 5  # see counts()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    verified: int = 0  # in a row
    paused_until: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRecord:
    strikes: int = 0
    clean: int = 0  # verified results of all nodes since the last strike, or since one was forgiven


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordChanges:
    """What a finding makes of the records."""

    node: NodeRecord
    owner: OwnerRecord
    struck: bool = False
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """How many owners could check a task, and how many there are at all; one address is one owner."""

    able: int
    there: int

    def raises(self, least: int) -> bool:
        """Whether their agreement may raise a score."""
        return self.able >= least

    def lowers(self, least: int) -> bool:
        """Whether their word may lower one: also in a small pool, but not where a task's needs and requests
        were made so that only few of many can run it."""
        return self.able >= min(least, self.there)


class BlockEnd(StrEnum):
    RELEASE = "release"
    RECALL = "recall"
    DRAW_AGAIN = "draw_again"


def way_to_trust(owner: OwnerRecord) -> int:
    """Verified results in a row after which a node of this owner is trusted."""
    return TRUSTED_AFTER << owner.strikes


def is_trusted(node: NodeRecord, owner: OwnerRecord) -> bool:
    return node.verified >= way_to_trust(owner)


def one_at_a_time(*, trusted: bool, trusted_others: bool) -> bool:
    """Does the node get one task at a time, as on probation? `trusted`: by is_trusted, or it is above the
    lowest tier. `trusted_others`: another owner has such a node; without one nobody could be preferred, and
    the pool would only be slower.

    Strangers cost a second run for each of theirs, and accounts are cheap: this is what bounds the extra
    work that any number of them can cause.
    """
    return trusted_others and not trusted


def audit_share(node: NodeRecord, owner: OwnerRecord, rules: Rules) -> float:
    """The share of the node's results that is checked: 1 at first, AUDIT_SHARE when it becomes trusted.

    It falls with the square of the row. Trust that falls like 1/n is cheap at first, where a cheater with
    ever new accounts would live.
    """
    if rules.audit_share <= 0:
        return 0.0
    if node.verified < NEWCOMER_CHECKS << owner.strikes:
        return 1.0
    share = rules.audit_share * (way_to_trust(owner) / node.verified) ** 2
    least = max(min(rules.audit_share, rules.audit_share_least), 1 / MOST_BLOCK_SIZE)
    return min(1.0, max(share, least))


def block_size(node: NodeRecord, owner: OwnerRecord, rules: Rules) -> int:
    """Results of which one is checked; 0 when audits are off."""
    share = audit_share(node, owner, rules)
    # A share of 0.01 is 100, whatever its last bit says.
    return int(1 / share + 1e-9) if share else 0


def holds_back(size: int) -> bool:
    """Is the result kept from its user until it is checked? Where every one is, it will be soon."""
    return size == 1


def is_full(size: int, results: int, oldest_at: float, now: float) -> bool:
    """`results` in the open block, the oldest of which came at `oldest_at`."""
    return results > 0 and (results >= size or now - oldest_at >= MOST_BLOCK_SECONDS)


def draw(results: Sequence[str], ticket: float) -> str:
    """The result to check. `ticket`: 0 <= ticket < 1, from a source that no node can foresee."""
    return results[min(int(ticket * len(results)), len(results) - 1)]


def block_end(finding: Finding) -> BlockEnd:
    """What becomes of the block whose drawn result was found so."""
    return {
        Finding.VERIFIED: BlockEnd.RELEASE,
        Finding.DIFFERED: BlockEnd.RECALL,
        Finding.UNDECIDED: BlockEnd.DRAW_AGAIN,
    }[finding]


def that_count(
    findings: Mapping[int, Finding],
    related: Collection[frozenset[int]],
    *,
    raises: bool,
    lowers: bool,
) -> dict[int, Finding]:
    """What a comparison says of these owners for good; UNDECIDED where it says nothing.

    `related`: pairs of owners who may be one person. Whom only a friend confirms is not confirmed, and whom
    only friends of each other refute is not refuted. `raises`, `lowers`: whether enough owners could have
    been asked for either.
    """
    right = {owner for owner, finding in findings.items() if finding is Finding.VERIFIED}
    confirmed = {
        owner for owner in right if any(frozenset({owner, it}) not in related for it in right - {owner})
    }

    def said(owner: int, finding: Finding) -> bool:
        if finding is Finding.VERIFIED:
            return raises and owner in confirmed
        return lowers and bool(confirmed)

    return {owner: it if said(owner, it) else Finding.UNDECIDED for owner, it in findings.items()}


def fair_minutes(own: int, others: Sequence[int]) -> int:
    """What a run is paid at most when others ran the same: a slow machine is no fraud, an idle one may be."""
    return min(own, FAIR_TIMES * max(others) + FAIR_MORE_MINUTES) if others else own


def pays_recalled(*, lenient: bool, confirmed: bool) -> bool:
    """Is a recalled run paid after all? `confirmed`: the run in its place returned the same digest.

    Only at the error of an owner with a good record. Who has none loses the right ones with the false, or
    a little lying would cost no more than it gains.
    """
    return lenient and confirmed


def after_finding(node: NodeRecord, owner: OwnerRecord, finding: Finding, now: float) -> RecordChanges:
    """One compared run of the node. Run it for every voter, the checkers too."""
    if finding is Finding.UNDECIDED:
        return RecordChanges(node=node, owner=owner)
    if finding is Finding.VERIFIED:
        more = replace(node, verified=min(node.verified + 1, MOST_VERIFIED))
        return RecordChanges(node=more, owner=_with_one_more(owner))
    # Before the strike: the record that they had.
    lenient = owner.strikes == 0 and owner.clean >= FORGIVEN_AFTER
    struck = OwnerRecord(strikes=min(owner.strikes + 1, MOST_STRIKES))
    paused = node.paused_until if lenient else max(node.paused_until, now + pause_seconds(struck))
    return RecordChanges(
        node=NodeRecord(verified=0, paused_until=paused), owner=struck, struck=True, lenient=lenient
    )


def _with_one_more(owner: OwnerRecord) -> OwnerRecord:
    clean = min(owner.clean + 1, MOST_VERIFIED)
    if owner.strikes and clean >= FORGIVEN_AFTER << (owner.strikes - 1):
        return OwnerRecord(strikes=owner.strikes - 1)
    return OwnerRecord(strikes=owner.strikes, clean=clean)


def pause_seconds(owner: OwnerRecord) -> float:
    """How long a node that differed gets no low-trust work, after so many strikes of its owner."""
    return FIRST_PAUSE_SECONDS * 2 ** (owner.strikes - 1) if owner.strikes else 0.0


def first_record(owner: OwnerRecord, now: float) -> NodeRecord:
    """Of a node id that is new. It waits as long as the one that it may be meant to replace."""
    pause = pause_seconds(owner)
    return NodeRecord(paused_until=now + pause if pause else 0.0)
