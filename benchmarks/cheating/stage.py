"""The pool in rounds: fresh tasks and wanted runs go to free nodes, what they return goes to the rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from random import Random

from benchmarks.cheating.nodes import (
    FRIENDS_SHARE,
    IDLED,
    RIGHT,
    RING,
    Answers,
    Kind,
    Node,
    Owner,
    Scene,
    population,
)


@dataclass(slots=True)
class Run:
    node: Node
    digest: int


@dataclass(slots=True, eq=False)
class Task:
    number: int
    runs: list[Run] = field(default_factory=list)  # that are compared
    awaited: int = 0  # runs that are wanted or under way
    delivered: bool = False
    accepted: bool = False
    disputed: bool = False
    ring_lied: bool = False
    barred: set[int] = field(default_factory=set)  # owners that must not run it
    recalled: Run | None = None
    lenient: bool = False
    author: Node | None = None  # whose block it is in
    block: object = None

    def bar(self, owner: Owner) -> None:
        self.barred.add(owner.number)


@dataclass(slots=True)
class Tally:
    """What happened in one window of time."""

    accepted: int = 0
    wrong_accepted: int = 0
    delivered: int = 0
    wrong_delivered: int = 0
    fresh: int = 0  # tasks begun
    extra: int = 0  # runs of tasks that have been run before
    recalled: int = 0
    undecided: int = 0


class Policy(ABC):
    """A rule that says which runs are wanted, and which results stand."""

    name: str

    def __init__(self, nodes: list[Node], chance: Random, patience: int) -> None:
        self.nodes, self.chance, self.patience = nodes, chance, patience
        self.wanted: deque[Task] = deque()
        self.tally = Tally()
        self.round = 0
        self.owners_made = max(node.owner.number for node in nodes)

    @abstractmethod
    def looks_trusted(self, node: Node) -> bool:
        """Does the node, which knows the rule and its own past, find that lying may begin?"""

    def slots(self, node: Node, most: int) -> int:
        """How many tasks the node may run in this round."""
        return most if node.joins_at <= self.round else 0

    @abstractmethod
    def assign(self, free: list[Node], fresh: deque[Task]) -> list[tuple[Task, Node]]:
        """Who runs what in this round, out of `wanted` and `fresh`.

        `free` has every node once for each task that it may run, in no particular order.
        """

    @abstractmethod
    def returned(self, task: Task, run: Run) -> None:
        """A run of this task has come in."""

    @abstractmethod
    def forget(self, node: Node, stranger: Owner) -> None:
        """The node left with its account, and comes back as a stranger's."""

    def deliver(self, task: Task, digest: int) -> None:
        if not task.delivered:
            task.delivered = True
            self.tally.delivered += 1
            self.tally.wrong_delivered += digest != RIGHT

    def accept(self, task: Task, run: Run) -> None:
        """Its result stands for good."""
        self.deliver(task, run.digest)
        task.accepted = True
        self.tally.accepted += 1
        self.tally.wrong_accepted += run.digest != RIGHT

    def pay(self, run: Run) -> None:
        run.node.earned += 1
        run.node.earned_by_lies += run.digest != RIGHT

    @abstractmethod
    def agreed(self, node: Node, friend: Node) -> None:
        """The friend gave the same answer as the node to a task that only the two of them could run."""

    def idled(self, task: Task, run: Run) -> None:
        """The pool had to end the run, and nothing shows that its node worked at it: it goes elsewhere."""
        self.caught(run.node)
        self.wanted.append(task)

    def caught(self, node: Node) -> None:
        node.lies_now = False


@dataclass(slots=True)
class History:
    """A whole run of the experiment under one rule."""

    tallies: list[Tally]
    earned: list[dict[Kind, float]]  # per node of the kind, at the end of each window
    profit: dict[Kind, float]
    nodes: list[Node]
    window_rounds: int


WINDOWS = 50
# Of what an honest run is paid, what it costs to do it.
COST_OF_A_RUN = 0.5


def play(scene: Scene, seed: int, policy_class: type[Policy]) -> History:
    nodes = population(scene, Random(f"{seed} population"))
    chance = Random(f"{seed} {policy_class.__name__}")
    policy = policy_class(nodes, chance, scene.patience)
    answers = Answers(scene, Random(f"{seed} answers"))
    fresh: deque[Task] = deque()
    tallies, earned = [], []
    window = max(1, scene.rounds // WINDOWS)
    due, number = 0.0, 0
    for now in range(scene.rounds):
        policy.round = now
        _come_back(scene, policy, now)
        due += scene.load * scene.slots * len(nodes)
        while number < int(due):
            fresh.append(Task(number))
            number += 1
        _one_round(scene, policy, answers, fresh)
        if (now + 1) % window == 0:
            tallies.append(policy.tally)
            policy.tally = Tally()
            earned.append(_per_node(nodes, scene, [float(node.earned) for node in nodes]))
    profits = [node.earned - COST_OF_A_RUN * node.computed for node in nodes]
    return History(tallies, earned, _per_node(nodes, scene, profits), nodes, window)


def _one_round(scene: Scene, policy: Policy, answers: Answers, fresh: deque[Task]) -> None:
    free = [node for node in policy.nodes for _ in range(policy.slots(node, scene.slots))]
    policy.chance.shuffle(free)
    free = _without_friends(policy, free)
    before = len(fresh)
    pairs = policy.assign(free, fresh)
    begun = before - len(fresh)
    policy.tally.fresh += begun
    policy.tally.extra += len(pairs) - begun
    runs = []
    for task, node in pairs:
        trusted = policy.looks_trusted(node)
        digest = answers.of(node, trusted=trusted, ring_lied=task.ring_lied)
        task.ring_lied = task.ring_lied or digest == RING
        runs.append((task, Run(node, digest)))
    for task, run in runs:
        if run.digest == IDLED:
            policy.idled(task, run)
        else:
            policy.returned(task, run)


def _without_friends(policy: Policy, free: list[Node]) -> list[Node]:
    """Sock puppets run tasks of the person behind them in some of their slots: paid, and nobody works."""
    left = []
    for node in free:
        if node.kind is Kind.SOCK_PUPPET and policy.chance.random() < FRIENDS_SHARE:
            friends = [it for it in policy.nodes if it.kind is node.kind and it.owner is not node.owner]
            policy.agreed(node, policy.chance.choice(friends))
        else:
            left.append(node)
    return left


def _come_back(scene: Scene, policy: Policy, now: int) -> None:
    """Accounts are cheap: a cheater who is struck too often takes another, for all of their nodes."""
    worn_out = {
        node.owner.number: node.owner
        for node in policy.nodes
        if node.kind is not Kind.HONEST and node.owner.record.strikes >= scene.comeback_strikes
    }
    for number in worn_out:
        policy.owners_made += 1
        stranger = Owner(policy.owners_made)
        for node in policy.nodes:
            if node.owner.number == number:
                policy.forget(node, stranger)
                node.joins_at = now + scene.comeback_rounds


def _per_node(nodes: list[Node], scene: Scene, amounts: list[float]) -> dict[Kind, float]:
    """Of honest nodes those who were there from the start; the others had less time."""
    result = {}
    for kind in Kind:
        if scene.count(kind):
            there = [
                amount
                for node, amount in zip(nodes, amounts, strict=True)
                if node.kind is kind and (kind is not Kind.HONEST or node.joins_at == 0)
            ]
            result[kind] = sum(there) / max(1, len(there))
    return result
