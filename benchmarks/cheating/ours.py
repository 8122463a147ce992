"""The pool's rules at work on the stage: what a run's end does, the pool's own `decide` says.

Here is what stands around it: records and results in dictionaries instead of SQL, and what becomes of the
effects. Nothing is decided here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from random import Random

from benchmarks.cheating.nodes import PUPPET_ACCOUNTS, ROUND_SECONDS, Node, Owner
from benchmarks.cheating.pool_task import (
    FIRST_OWNER,
    MINUTES,
    NO_ROOM,
    USER,
    USER_ACCOUNT,
    PoolTask,
    awards,
    end_of,
    node_id_of,
    owner_id_of,
    task_id_of,
)
from benchmarks.cheating.stage import Policy, Run, Task
from nodepool.domain import ids
from nodepool.domain.ends.attempt_end import (
    AttemptEndSnapshot,
    End,
    EndingAttempt,
    EndingNode,
    EndingTask,
    EndRules,
    Tickets,
    decide,
)
from nodepool.domain.ends.effects import Effects, EndDecision, FamilyEffects
from nodepool.domain.ends.task_runs import ParentTask, TaskFamily, TaskRun
from nodepool.domain.money.ledger import EntryKind, NewEntry
from nodepool.domain.money.settlement import Hold
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.tasks.states import AttemptState, TaskKind, TaskState, Verification
from nodepool.domain.trust import audits, holding_back
from nodepool.domain.trust.audits import NodeRecord, Reach
from nodepool.domain.trust.provisional import NewCheck, ProvisionalResult, TrustFacts
from nodepool.domain.trust.tiers import Tier
from nodepool.domain.trust.voting import Checker, Finding, may_check

SAMPLE = 12


class Ours(Policy):
    name = "ours"

    def __init__(self, nodes: list[Node], chance: Random, patience: int) -> None:
        super().__init__(nodes, chance, patience)
        self.rules = EndRules()
        self.tasks: dict[str, PoolTask] = {}
        self.results: dict[str, ProvisionalResult] = {}
        self.of_node: dict[str, dict[str, None]] = {}  # ids of the tasks whose results wait
        self.records: dict[str, NodeRecord] = {}
        self.owners = {node.owner.number: node.owner for node in nodes}
        self.by_id = {node_id_of(node): node for node in nodes}
        self.trusted_there = False
        self.fleet = Fleet()
        for node in nodes:
            self._show(node)

    @property
    def now(self) -> float:
        return self.round * ROUND_SECONDS

    # -- what a node knows of itself ------------------------------------------------------------------
    def looks_trusted(self, node: Node) -> bool:
        return self._trusted(node) and self._block_size(node) >= self.patience

    def _trusted(self, node: Node) -> bool:
        return audits.is_trusted(node.record, node.owner.record)

    def _block_size(self, node: Node) -> int:
        return audits.block_size(node.record, node.owner.record, self.rules.audits)

    def forget(self, node: Node, stranger: Owner) -> None:
        """What its old account has not been paid yet is decided without it."""
        self.fleet.remove(node_id_of(node))
        self.owners[stranger.number] = stranger
        node.owner, node.lies_now = stranger, False
        node.record = self.records[node_id_of(node)] = audits.first_record(stranger.record, self.now)
        self.by_id[node_id_of(node)] = node
        self._show(node)

    # -- placing --------------------------------------------------------------------------------------
    def slots(self, node: Node, most: int) -> int:
        if node.joins_at > self.round or node.record.paused_until > self.now:
            return 0
        return 1 if self.fleet.gets_one_task(node_id_of(node), Tier.LOW) else most

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
            if (of := self.tasks.get(task_id_of(task))) is not None:
                of.waits_since = None
        for node in free:
            if not fresh:
                break
            pairs.append((fresh.popleft(), node))
            pairs[-1][0].bar(node.owner)
        return pairs

    def _show(self, node: Node) -> None:
        """The node as the dispatchers see it."""
        view = NodeView(
            node_id=node_id_of(node),
            tier=Tier.LOW,
            region="unknown",
            gpu_name="",
            draining=node.record.paused_until > self.now,
            online=node.joins_at <= self.round,
            capacity=NO_ROOM,
            reserved=NO_ROOM,
            owner_id=owner_id_of(node.owner),
            on_trial=not self._trusted(node),
        )
        self.fleet.put(view)

    def _pass_time(self) -> None:
        """What the sweep does."""
        for node in self.nodes:
            self._show(node)
        self.trusted_there = any(self._trusted(node) for node in self.nodes)
        for node_id in list(self.of_node):
            if any(not self.results[task_id].block for task_id in self.of_node[node_id]):
                self._close_block(node_id)
        for of in list(self.tasks.values()):
            if of.held_until and not holding_back.waits_longer(
                of.held_until, without_checker_since=of.waits_since, now=self.now
            ):
                self._give(of)

    def _close_block(self, node_id: str) -> None:
        facts = self._facts([node_id])
        if all(self.now - it.finished_at < audits.MOST_BLOCK_SECONDS for it in facts.results if not it.block):
            return  # nothing that an end had not closed
        decision = EndDecision(now=self.now, rules=self.rules, tickets=self._tickets(), trust=facts)
        decision.book.close_block(node_id)
        self._apply(decision.effects())

    def _choice(self, free: list[Node], task: Task) -> int | None:
        """By chance, out of a sample: to ask all of a large pool would take long and change nothing."""
        for size in (SAMPLE, len(free)):
            sample = self.chance.sample(range(len(free)), min(size, len(free)))
            choice = may_check(
                [self._checker(index, free[index]) for index in sample],
                task.barred,
                disputed=task.disputed,
            )
            if choice and (size == len(free) or not self.trusted_there or choice[0].trusted):
                return int(self.chance.choice(choice).node_id)
        return None

    def _checker(self, index: int, node: Node) -> Checker:
        return Checker(
            node_id=str(index),
            owner_id=node.owner.number,
            tier=Tier.LOW,
            trusted=self._trusted(node),
        )

    # -- a run ends -----------------------------------------------------------------------------------
    def returned(self, task: Task, run: Run) -> None:
        self._end(task, run, end_of(run))

    def idled(self, task: Task, run: Run) -> None:
        """Its user, whose task has failed so, submits it again."""
        self.caught(run.node)
        is_check = task_id_of(task) in self.tasks
        self._end(task, run, end_of(run))
        if not is_check:
            self.wanted.append(task)

    def _end(self, task: Task, run: Run, end: End) -> None:
        of = self.tasks.get(task_id_of(task))
        snapshot = self._of_single(task, run) if of is None else self._of_check(of, run)
        attempt = snapshot.attempt
        effects = decide(snapshot, end, self.rules, self.now, self._tickets())
        closed, moved = effects.closed, effects.moved
        assert closed is not None
        assert moved is not None
        if of is None:
            of = PoolTask(task, run, moved.digest, returned={attempt.id: run})
            if effects.trust.kept is not None:
                self.tasks[task_id_of(task)] = of
        else:
            of.returned[attempt.id] = run
            of.runs = tuple(
                replace(
                    it,
                    state=moved.state,
                    result_digest=moved.digest,
                    result_attempt=moved.result_attempt,
                    attempt_state=closed.state,
                    attempt_finished_at=self.now,
                    attempt_idle=closed.idle,
                )
                if it.id == attempt.task.id
                else it
                for it in of.runs
            )
        self._apply(effects)

    def _of_single(self, task: Task, run: Run) -> AttemptEndSnapshot:
        task_id, node = task_id_of(task), run.node
        hold = Hold(task_id=task_id, account_id=USER_ACCOUNT, amount=MINUTES, price_per_minute=1)
        return AttemptEndSnapshot(
            attempt=self._attempt(task_id, node, TaskKind.USER),
            hold=hold,
            others=True,
            trust=self._facts([node_id_of(node)]),
        )

    def _of_check(self, of: PoolTask, run: Run) -> AttemptEndSnapshot:
        node, waiting = run.node, of.runs[-1]
        attempt = self._attempt(waiting.id, node, TaskKind.AUDIT)
        current = replace(
            waiting,
            state=TaskState.RUNNING,
            node_id=node_id_of(node),
            attempt_id=attempt.id,
            attempt_state=AttemptState.RUNNING,
            attempt_started_at=attempt.started_at,
            provider_id=owner_id_of(node.owner),
        )
        of.runs = (*of.runs[:-1], current)
        result = self.results[task_id_of(of.task)]
        runs = tuple(replace(it, trusted=self._is_trusted(it.node_id, it.provider_id)) for it in of.runs)
        parent = ParentTask(
            id=task_id_of(of.task),
            owner_id=USER,
            state=TaskState.SUCCEEDED,
            max_minutes=MINUTES,
            price_per_minute=1,
            result_digest=of.digest,
        )
        checked = replace(result, trusted=self._is_trusted(result.node_id, result.owner_id))
        return AttemptEndSnapshot(
            attempt=attempt,
            family=TaskFamily(parent=parent, runs=runs, others=True, checked=checked),
            trust=self._facts([result.node_id, *(it.node_id for it in runs)]),
        )

    def _attempt(self, task_id: str, node: Node, kind: TaskKind) -> EndingAttempt:
        started = self.now - ROUND_SECONDS
        ending = EndingNode(id=node_id_of(node), owner_id=owner_id_of(node.owner), is_low=True)
        task = EndingTask(id=task_id, owner_id=USER, kind=kind, max_minutes=MINUTES, started_at=started)
        return EndingAttempt(id=f"{task_id}:1", task=task, node=ending, started_at=started)

    def _is_trusted(self, node_id: str, owner_id: int | None) -> bool:
        return owner_id is not None and audits.is_trusted(self._record(node_id), self._owner(owner_id).record)

    def _facts(self, node_ids: Iterable[str]) -> TrustFacts:
        """All that decides on results that wait, of these nodes."""
        wanted = dict.fromkeys(node_ids)
        results = tuple(self.results[it] for node_id in wanted for it in self.of_node.get(node_id, ()))
        owners = {result.owner_id for result in results}
        owners |= {owner_id_of(self.by_id[node_id].owner) for node_id in wanted}
        return TrustFacts(
            results=results,
            nodes={node_id: self._record(node_id) for node_id in wanted},
            owners={owner_id: self._owner(owner_id).record for owner_id in owners},
            reach=Reach(len(self.nodes), len(self.nodes)),
        )

    def _record(self, node_id: str) -> NodeRecord:
        return self.records.get(node_id, NodeRecord())

    def _owner(self, owner_id: int) -> Owner:
        return self.owners[owner_id - FIRST_OWNER]

    def _tickets(self) -> Tickets:
        return Tickets(draw=self.chance.random())

    # -- what becomes of the effects --------------------------------------------------------------------
    def _apply(self, effects: Effects) -> None:
        trust = effects.trust
        for node_id, record in trust.nodes.items():
            self._put_record(node_id, record)
        for owner_id, owner_record in trust.owners.items():
            self._owner(owner_id).record = owner_record
        if trust.kept is not None:
            self._keep(trust.kept)
        self._pay(trust.movements)
        for check in trust.checks:
            self._put_under_check(check)
        for added in effects.added:
            self._wait(added.task_id)
        replaced = self._replace(effects.family)
        for task_id, word in trust.forgotten:
            self._stands(task_id, word, found=task_id == replaced)
        for node_id in effects.follow_up.paused if effects.follow_up is not None else ():
            node = self.by_id[node_id]
            if self._record(node_id).paused_until > self.now or not self._trusted(node):
                self.caught(node)

    def _put_under_check(self, check: NewCheck) -> None:
        self.tally.recalled += bool(check.recalled)
        for task_id in check.block_of:
            self.results[task_id] = replace(self.results[task_id], block=check.task_id)
        drawn = self.results[check.task_id]
        self.results[check.task_id] = replace(drawn, block=check.task_id, drawn=True, recalled=check.recalled)

    def _replace(self, family: FamilyEffects | None) -> str:
        """The task whose false result another takes the place of; empty for none."""
        if family is None or family.replaced is None:
            return ""
        of = self.tasks[family.task_id]
        of.run = of.returned[family.replaced.result.result_attempt]
        return family.task_id

    def _put_record(self, node_id: str, record: NodeRecord) -> None:
        self.records[node_id] = record
        node = self.by_id[node_id]
        if node_id_of(node) == node_id:
            node.record = record

    def _keep(self, result: ProvisionalResult) -> None:
        self.results[result.task_id] = replace(result, started_at=self.now - ROUND_SECONDS, ended_at=self.now)
        self.of_node.setdefault(result.node_id, {})[result.task_id] = None
        of = self.tasks[result.task_id]
        of.held_until = result.held_back_until
        if not of.held_until:
            self.deliver(of.task, of.run.digest)

    def _wait(self, run_id: str) -> None:
        """A run that checks a task waits for a node."""
        task_id, number = ids.parent_of(run_id), ids.run_number(run_id)
        of, result = self.tasks[task_id], self.results[task_id]
        self.results[task_id] = replace(result, runs=number)
        of.runs = (*of.runs, TaskRun(id=run_id, state=TaskState.QUEUED))
        of.waits_since = self.now + ROUND_SECONDS  # runs end with their round
        of.task.disputed = number > 1
        self.wanted.append(of.task)

    def _pay(self, entries: Iterable[NewEntry]) -> None:
        for entry in entries:
            if entry.kind is not EntryKind.AWARD:
                continue  # what waits, and what goes back
            of = self.tasks[entry.task_id]
            attempt = next(it for it in of.returned if entry.id in awards(it))
            of.paid[attempt] += entry.amount
            if of.paid[attempt] == MINUTES:
                self.pay(of.returned[attempt])

    def _give(self, of: PoolTask) -> None:
        of.held_until = 0.0
        self.deliver(of.task, of.run.digest)

    def _stands(self, task_id: str, word: str, *, found: bool) -> None:
        """Its result is provisional no longer. `found`: another took the place of a false one."""
        result, of = self.results.pop(task_id), self.tasks.pop(task_id)
        del self.of_node[result.node_id][task_id]
        if not self.of_node[result.node_id]:
            del self.of_node[result.node_id]
        if word == Verification.DISPUTED and not found:
            self.tally.undecided += 1
            self.deliver(of.task, of.run.digest)
        else:
            self.accept(of.task, of.run)

    # -- friends --------------------------------------------------------------------------------------
    def agreed(self, node: Node, friend: Node) -> None:
        """As a check that two of the few who could be asked confirm: see stores/sql/owner_relations.py."""
        could = Reach(able=PUPPET_ACCOUNTS - 2, there=len(self.nodes))
        least = self.rules.audits.least_owners
        told = audits.that_count(
            {node.owner.number: Finding.VERIFIED, friend.owner.number: Finding.VERIFIED},
            (),
            raises=could.raises(least),
            lowers=could.lowers(least),
        )
        change = audits.after_finding(node.record, node.owner.record, told[node.owner.number], self.now)
        self._put_record(node_id_of(node), change.node)
        node.owner.record = change.owner
