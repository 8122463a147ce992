"""Results that wait to be verified: what is known of them, and what a decision makes of them. Pure.

The rules are in `domain/trust/audits.py`. `TrustBook` is where one decision writes down what it does to
results, to the records of nodes and owners, and to the money that waits, so that its later steps see the
earlier ones. What leaves it is data (`TrustEffects`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodepool.domain import ids
from nodepool.domain.money import ledger
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.trust import audits
from nodepool.domain.trust.audits import NodeRecord, OwnerRecord, Reach, RecordChanges, Rules
from nodepool.domain.trust.voting import Finding

STRICT, LENIENT = "strict", "lenient"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionalResult:
    """A result that is not verified yet, with what its task says of a run that would check it."""

    task_id: str
    attempt_id: str
    node_id: str
    owner_id: int  # of the node
    finished_at: float
    block: str = ""  # empty while it is open
    drawn: bool = False  # it is the one of its block that is checked
    recalled: str = ""  # STRICT or LENIENT: its node was found to lie elsewhere
    held_back_until: float = 0.0  # when the task's owner gets it at the latest; 0: they have it
    tier: str = ""  # where a run of the task waits
    region: str = ""
    runs: int = 0  # the number of the task's last run
    waiting_pay: int = 0  # paid for it, and nobody's yet
    payer: str = ""  # the account that it came from
    started_at: float | None = None
    ended_at: float | None = None
    run_seconds: float | None = None  # None: as those two say
    trusted: bool = False  # its node has proven itself


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustFacts:
    """What decides on results that wait, read with the ledger's head locked."""

    results: tuple[ProvisionalResult, ...] = ()  # of the nodes that may be found out, and of the block
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    owners: Mapping[int, OwnerRecord] = field(default_factory=dict)
    reach: Reach = Reach(0, 0)  # noqa: RUF009 - a frozen value
    related: frozenset[frozenset[int]] = frozenset()  # pairs of owners who may be one person
    raised: frozenset[int] = frozenset()  # whose score a task of the same user has raised within a day
    fees: int = 0  # what the pool has kept so far


@dataclass(frozen=True, slots=True)
class AddedRun:
    """A run that is to wait for a node, and the partition of its queue."""

    task_id: str
    tier: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCheck:
    """The task's result is drawn, and these tasks' results stand and fall with it."""

    task_id: str
    block_of: tuple[str, ...]
    recalled: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustEffects:
    """What becomes of results, records and waiting money."""

    kept: ProvisionalResult | None = None
    checks: tuple[NewCheck, ...] = ()
    forgotten: tuple[tuple[str, str], ...] = ()  # (task, what its verification says from now on)
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    owners: Mapping[int, OwnerRecord] = field(default_factory=dict)
    watched: Mapping[str, int] = field(default_factory=dict)  # node -> results that are looked at
    looked_at: str = ""  # the node of which one result less is to be looked at
    movements: tuple[NewEntry, ...] = ()


class TrustBook:
    """One decision on results that wait. `ticket`: 0 <= ticket < 1, which no node can foresee."""

    def __init__(self, facts: TrustFacts, *, rules: Rules, now: float, ticket: float) -> None:
        self.facts = facts
        self._rules, self._now, self._ticket = rules, now, ticket
        ordered = sorted(facts.results, key=lambda it: (it.finished_at, it.task_id))
        self._results = {result.task_id: result for result in ordered}
        self._nodes, self._owners = dict(facts.nodes), dict(facts.owners)
        self._fees = facts.fees
        self._kept: ProvisionalResult | None = None
        self._checks: list[NewCheck] = []
        self._forgotten: list[tuple[str, str]] = []
        self._movements: list[NewEntry] = []
        self._looked_at = ""
        self._noted: dict[str, int] = {}
        self.added: list[AddedRun] = []
        self.paused: set[str] = set()

    def effects(self) -> TrustEffects:
        nodes, owners = self.facts.nodes, self.facts.owners
        return TrustEffects(
            kept=self._kept,
            checks=tuple(self._checks),
            forgotten=tuple(self._forgotten),
            nodes={key: it for key, it in self._nodes.items() if it != nodes.get(key, NodeRecord())},
            owners={key: it for key, it in self._owners.items() if it != owners.get(key, OwnerRecord())},
            looked_at=self._looked_at,
            movements=tuple(self._movements),
        )

    def node(self, node_id: str) -> NodeRecord:
        return self._nodes.get(node_id, NodeRecord())

    def owner(self, owner_id: int) -> OwnerRecord:
        return self._owners.get(owner_id, OwnerRecord())

    def block_size(self, node_id: str, owner_id: int) -> int:
        return audits.block_size(self.node(node_id), self.owner(owner_id), self._rules)

    # -- results -------------------------------------------------------------------------------------
    def keep(self, result: ProvisionalResult, *, alone: bool) -> None:
        """It waits; a block that it fills is checked. `alone`: it is checked by itself."""
        self._kept = self._results[result.task_id] = result
        if alone:
            self._looked_at = result.node_id
            self.check(result.task_id, [result.task_id])
        else:
            self.close_block(result.node_id)

    def close_block(self, node_id: str) -> None:
        """One of the results of an open block is checked, where the block is full."""
        block = [it for it in self._results.values() if it.node_id == node_id and not it.block]
        if not block:
            return
        size = self.block_size(node_id, block[0].owner_id)
        if audits.is_full(size, len(block), block[0].finished_at, self._now):
            self._draw(block)

    def draw_again(self, block: str) -> bool:
        """What is left of the block is left to another check; False when nothing is."""
        left = [it for it in self._of_block(block) if not it.drawn]
        if left:
            self._draw(left)
        return bool(left)

    def _draw(self, results: Sequence[ProvisionalResult]) -> None:
        names = [it.task_id for it in results]
        self.check(audits.draw(names, self._ticket), names)

    def check(self, task_id: str, block_of: Iterable[str], recalled: str = "") -> None:
        names = tuple(block_of)
        self._checks.append(NewCheck(task_id=task_id, block_of=names, recalled=recalled))
        for name in names:
            self._results[name] = replace(self._results[name], block=task_id)
        result = self._results[task_id]
        number = result.runs + 1
        self._results[task_id] = replace(result, block=task_id, drawn=True, recalled=recalled, runs=number)
        self.added.append(AddedRun(ids.run_id(task_id, number), result.tier, result.region))

    def recall(self, node_id: str, *, lenient: bool) -> None:
        """All that the node has not been paid yet is run again, each result by itself."""
        for result in list(self._results.values()):
            # One that is being checked is decided on by its check.
            if result.node_id == node_id and not result.drawn:
                self.check(result.task_id, [result.task_id], LENIENT if lenient else STRICT)

    def release_block(self, block: str, *, word: str, rest: str, pay: tuple[int, int]) -> None:
        """All of it stands and is paid. `word` is for the task that was checked, `rest` for the others."""
        for result in self._of_block(block):
            self.award(result, pay=pay)
            self.forget(result.task_id, word if result.task_id == block else rest)

    def _of_block(self, block: str) -> list[ProvisionalResult]:
        return [it for it in self._results.values() if it.block == block]

    def forget(self, task_id: str, word: str) -> None:
        """The task's result is provisional no longer."""
        del self._results[task_id]
        self._forgotten.append((task_id, word))

    # -- records -------------------------------------------------------------------------------------
    def seen_differently(self) -> set[str]:
        """Nodes that have become trusted, or have ceased to be: placement treats them differently."""
        return {
            node_id
            for node_id, owner_id in self._noted.items()
            if audits.is_trusted(self.node(node_id), self.owner(owner_id))
            != audits.is_trusted(
                self.facts.nodes.get(node_id, NodeRecord()), self.facts.owners.get(owner_id, OwnerRecord())
            )
        }

    def note(self, node_id: str, owner_id: int, finding: Finding) -> RecordChanges:
        """One compared run of the node."""
        change = audits.after_finding(self.node(node_id), self.owner(owner_id), finding, self._now)
        self._nodes[node_id], self._owners[owner_id] = change.node, change.owner
        self._noted[node_id] = owner_id
        return change

    def found_false(self, node_id: str, owner_id: int) -> None:
        """The node gave a wrong answer, or none, where the pool knows the right one."""
        change = self.note(node_id, owner_id, Finding.DIFFERED)
        self.paused.add(node_id)
        self.recall(node_id, lenient=change.lenient)

    # -- money ---------------------------------------------------------------------------------------
    def award(self, result: ProvisionalResult, *, pay: tuple[int, int] = (1, 1)) -> None:
        """The node's owner gets what was paid for the result, or that part of it; the rest goes back."""
        due = result.waiting_pay * pay[0] // pay[1]
        if due:
            self._award(result.attempt_id, ledger.PENDING, result.owner_id, due, result.task_id)
        self._refund(result, result.waiting_pay - due, "it took far longer than elsewhere")

    def pay_runs(
        self, result: ProvisionalResult, runs: Sequence[tuple[str, int, int]], *, forfeit: bool
    ) -> None:
        """Runs that the pool ordered, as (attempt, its node's owner, amount).

        `forfeit`: what the task's user paid for the result pays them, and what is left of it goes back. What
        is missing comes out of the pool's fees, or the mint where those do not cover it.
        """
        funds = result.waiting_pay if forfeit else 0
        for attempt_id, owner_id, amount in runs:
            from_user = min(funds, amount)
            if from_user:
                self._award(attempt_id, ledger.PENDING, owner_id, from_user, result.task_id)
                funds -= from_user
            if missing := amount - from_user:
                source = ledger.FEE if self._fees >= missing else ledger.MINT
                self._fees -= missing if source == ledger.FEE else 0
                self._award(attempt_id, source, owner_id, missing, result.task_id, memo="audit")
        self._refund(result, funds, "its first result was false")

    def _refund(self, result: ProvisionalResult, amount: int, memo: str) -> None:
        if amount and result.payer:
            refund = ledger.refund_id(result.task_id)
            self._movements.append(
                NewEntry(refund, EntryKind.REFUND, ledger.PENDING, result.payer, amount, result.task_id, memo)
            )

    def _award(
        self, attempt_id: str, source: str, owner_id: int, amount: int, task_id: str, *,
        memo: str = "verified",
    ) -> None:  # fmt: skip
        account = ledger.user_account(owner_id)
        entry = ledger.award_id(attempt_id, source)
        self._movements.append(NewEntry(entry, EntryKind.AWARD, source, account, amount, task_id, memo))
