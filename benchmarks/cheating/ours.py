"""Our rule at work: every decision is one of `domain.trust.audits` and `domain.trust.voting`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from benchmarks.cheating.nodes import PUPPET_ACCOUNTS, ROUND_SECONDS, Node, Owner
from benchmarks.cheating.stage import Policy, Run, Task
from nodepool.domain.trust import audits as verification
from nodepool.domain.trust.audits import BlockEnd, NodeRecord, Reach
from nodepool.domain.trust.tiers import Tier
from nodepool.domain.trust.voting import Checker, Count, Finding, Verdict, Vote, count_votes, may_check


@dataclass(slots=True, eq=False)
class Block:
    """Results of one node that stand or fall together."""

    tasks: list[Task]
    drawn: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Pending:
    """What a node has not been paid yet."""

    open: list[Task] = field(default_factory=list)
    oldest_round: int = 0
    blocks: list[Block] = field(default_factory=list)


SAMPLE = 12


class Ours(Policy):
    name = "ours"

    def __init__(self, nodes: list[Node], chance: Random, patience: int) -> None:
        super().__init__(nodes, chance, patience)
        self.rules = verification.Rules()
        self.trusted_there = False
        self.pending = {node.number: Pending() for node in nodes}

    @property
    def now(self) -> float:
        return self.round * ROUND_SECONDS

    def looks_trusted(self, node: Node) -> bool:
        return self._trusted(node) and self._block_size(node) >= self.patience

    def _trusted(self, node: Node) -> bool:
        return verification.is_trusted(node.record, node.owner.record)

    def _block_size(self, node: Node) -> int:
        return verification.block_size(node.record, node.owner.record, self.rules)

    def forget(self, node: Node, stranger: Owner) -> None:
        self._recall(node, None, lenient=False)
        node.owner, node.record, node.lies_now = stranger, NodeRecord(), False

    def slots(self, node: Node, most: int) -> int:
        if node.joins_at > self.round or node.record.paused_until > self.now:
            return 0
        alone = verification.one_at_a_time(trusted=self._trusted(node), trusted_others=self.trusted_there)
        return 1 if alone else most

    def assign(self, free: list[Node], fresh: deque[Task]) -> list[tuple[Task, Node]]:
        self._pass_time()
        pairs = []
        for _ in range(len(self.wanted)):
            task = self.wanted.popleft()
            index = self._choice(free, task)
            if index is None:
                self.wanted.append(task)
                continue
            pairs.append((task, free.pop(index)))
            task.bar(pairs[-1][1].owner)
        for node in free:
            if not fresh:
                break
            pairs.append((fresh.popleft(), node))
            pairs[-1][0].bar(node.owner)
        return pairs

    def _pass_time(self) -> None:
        self.trusted_there = any(self._trusted(node) for node in self.nodes)
        for node in self.nodes:
            if self.pending[node.number].open:
                self._close_if_full(node)

    def _choice(self, free: list[Node], task: Task) -> int | None:
        """By chance, out of a sample: to ask all of a large pool would take long and change nothing."""
        for size in (SAMPLE, len(free)):
            sample = self.chance.sample(range(len(free)), min(size, len(free)))
            choice = may_check(
                [self._checker(index, free[index]) for index in sample],
                task.barred,
                disputed=task.disputed,
            )
            if any(checker.trusted for checker in choice) or (choice and size == len(free)):
                return int(self.chance.choice(choice).node_id)
        return None

    def _checker(self, index: int, node: Node) -> Checker:
        return Checker(
            node_id=str(index),
            owner_id=node.owner.number,
            tier=Tier.LOW,
            trusted=self._trusted(node),
        )

    def agreed(self, node: Node, friend: Node) -> None:
        """As a check that two of the few who could be asked confirm: see stores/sql/owner_relations.py."""
        could = Reach(able=PUPPET_ACCOUNTS - 2, there=len(self.nodes))
        least = self.rules.least_owners
        told = verification.that_count(
            {node.owner.number: Finding.VERIFIED, friend.owner.number: Finding.VERIFIED},
            (),
            raises=could.raises(least),
            lowers=could.lowers(least),
        )
        change = verification.after_finding(node.record, node.owner.record, told[node.owner.number], self.now)
        node.record, node.owner.record = change.node, change.owner

    def idled(self, task: Task, run: Run) -> None:
        super().idled(task, run)
        record, owner = run.node.record, run.node.owner.record
        change = verification.after_finding(record, owner, Finding.DIFFERED, self.now)
        run.node.record, run.node.owner.record = change.node, change.owner
        self._recall(run.node, None, lenient=change.lenient)

    def returned(self, task: Task, run: Run) -> None:
        if task.author is None:
            self._provisional(task, run)
            return
        task.runs.append(run)
        task.awaited -= 1
        if not task.awaited:
            self._count(task)

    def _provisional(self, task: Task, run: Run) -> None:
        """A result that nobody has asked to compare."""
        node = run.node
        task.runs, task.author = [run], node
        if task.recalled is not None:
            confirmed = task.recalled.digest == run.digest
            if verification.pays_recalled(lenient=task.lenient, confirmed=confirmed):
                self.pay(task.recalled)
            task.recalled = None
        size = self._block_size(node)
        if not verification.holds_back(size):
            self.deliver(task, run.digest)
        pending = self.pending[node.number]
        if not pending.open:
            pending.oldest_round = self.round
        pending.open.append(task)
        self._close_if_full(node)

    def _close_if_full(self, node: Node) -> None:
        pending = self.pending[node.number]
        size = self._block_size(node)
        oldest = pending.oldest_round * ROUND_SECONDS
        if verification.is_full(size, len(pending.open), oldest, self.now):
            block = Block(pending.open)
            pending.open = []
            pending.blocks.append(block)
            self._draw(node, block)

    def _draw(self, node: Node, block: Block) -> None:
        rest = {str(task.number): task for task in block.tasks if task.number not in block.drawn}
        if not rest:
            self._release(node, block)
            return
        task = rest[verification.draw(list(rest), self.chance.random())]
        block.drawn.add(task.number)
        task.block = block
        self._ask(task, 1)

    def _ask(self, task: Task, runs: int) -> None:
        task.awaited += runs
        self.wanted.extend([task] * runs)

    def _count(self, task: Task) -> None:
        author = task.author
        assert author is not None
        votes = [
            Vote(
                run_id=str(index),
                owner_id=run.node.owner.number,
                digest=str(run.digest),
                trusted=self._trusted(run.node),
            )
            for index, run in enumerate(task.runs)
        ]
        count = count_votes(votes)
        if count.verdict is Verdict.MORE:
            task.disputed = True
            self._ask(task, count.wanted)
            return
        self._decided(task, author, count)

    def _decided(self, task: Task, author: Node, count: Count) -> None:
        lenient = False
        for index, run in enumerate(task.runs):
            finding = count.findings[str(index)]
            change = verification.after_finding(run.node.record, run.node.owner.record, finding, self.now)
            run.node.record, run.node.owner.record = change.node, change.owner
            if finding is Finding.VERIFIED and index:
                self.pay(run)
            if change.struck:
                self.caught(run.node)
                if run.node is author:
                    lenient = change.lenient
                else:
                    self._recall(run.node, None, lenient=change.lenient)
        if count.verdict is Verdict.AGREED:
            self.accept(task, next(run for run in task.runs if str(run.digest) == count.digest))
        else:
            self.tally.undecided += 1
        block = task.block
        assert isinstance(block, Block)
        if block not in self.pending[author.number].blocks:
            self._alone(task, author, count)
            return
        match verification.block_end(count.findings["0"]):
            case BlockEnd.RELEASE:
                self._release(author, block)
            case BlockEnd.RECALL:
                self._recall(author, task, lenient=lenient)
            case BlockEnd.DRAW_AGAIN:
                self._draw(author, block)

    def _alone(self, task: Task, author: Node, count: Count) -> None:
        """Its block was recalled while it was checked."""
        if count.findings["0"] is Finding.VERIFIED:
            self.pay(task.runs[0])
        elif count.findings["0"] is Finding.DIFFERED:
            self._recall(author, task, lenient=False)
        if not task.accepted:
            self._again(task, author, lenient=False)

    def _release(self, node: Node, block: Block) -> None:
        """The block stands: all of it is paid."""
        self.pending[node.number].blocks.remove(block)
        for task in block.tasks:
            self.pay(task.runs[0])
            if not task.accepted:
                self.accept(task, task.runs[0])

    def _recall(self, node: Node, found: Task | None, *, lenient: bool) -> None:
        """All that the node has not been paid yet runs again elsewhere."""
        pending = self.pending[node.number]
        tasks = [task for block in pending.blocks for task in block.tasks] + pending.open
        self.pending[node.number] = Pending()
        for task in tasks:
            if task is found or task.accepted or task.awaited:
                continue
            self._again(task, node, lenient=lenient)

    def _again(self, task: Task, node: Node, *, lenient: bool) -> None:
        self.tally.recalled += 1
        task.recalled, task.lenient = task.runs[0], lenient
        task.runs, task.author, task.block = [], None, None
        task.barred, task.disputed = {node.owner.number}, False
        self.wanted.append(task)
