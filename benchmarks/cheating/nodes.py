"""Who takes part: kinds of node, what each returns for a task, and how many there are of each.

A task has one right digest, RIGHT. Cheaters know the rules and their own standing, but not which of their
runs are checks: to a node, every run looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from nodepool.domain.trust.audits import NodeRecord, OwnerRecord

RIGHT = 0
# All who return nothing return the same nothing.
NOTHING = -1
# The ring's answer: every member would give it.
RING = -2
# No answer at all: the run was idled away until the pool ended it.
IDLED = -3
# Sock puppets have one of their own tasks among so many.
FRIENDS_SHARE = 0.5


class Kind(StrEnum):
    HONEST = "honest"
    LAZY = "lazy"  # returns nothing
    LYING = "lying"  # plausible rubbish, always
    ON_OFF = "on_off"  # honest until trusted, then rubbish until caught, and again
    SNEAKY = "sneaky"  # honest until trusted, then rubbish now and then, however often caught
    COLLUDING = "colluding"  # as on_off, but all of the ring return the same wrong digest
    IDLER = "idler"  # claims and does nothing, half of the time with a word of output before
    SOCK_PUPPET = "sock_puppet"  # one person's, who orders tasks that only they can run, to look good


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The whole experiment but its seed. A round is five minutes, as long as a task takes."""

    rounds: int = 2000
    # Nodes of each kind. Honest owners have 1, 2 or 5 of them, others one; the ring also has an owner of 4.
    honest: int = 140
    lazy: int = 10
    lying: int = 10
    on_off: int = 16
    sneaky: int = 8
    colluding: int = 16
    idler: int = 10
    sock_puppet: int = 10
    slots: int = 3  # tasks that a node runs at once
    load: float = 0.6  # fresh tasks a round, per slot
    honest_errors: float = 0.0002  # share of false results of an honest node
    sneaky_lies: float = 0.1
    patience: int = 0  # under our rule cheaters also wait until of so many results one is checked
    late_joiners: float = 0.2  # share of honest nodes that join at some time during the run
    comeback_strikes: int = 3  # a cheater with so many strikes throws the account away
    comeback_rounds: int = 288  # and is back under a new one a day later

    def count(self, kind: Kind) -> int:
        return int(getattr(self, kind.value))

    @property
    def nodes(self) -> int:
        return sum(self.count(kind) for kind in Kind)


ROUND_SECONDS = 300.0
OWNER_SIZES = (1, 2, 5)
RING_OWNER_SIZE = 4
# One person's accounts; the nodes are spread over them.
PUPPET_ACCOUNTS = 4


@dataclass(slots=True)
class Owner:
    number: int
    record: OwnerRecord = field(default_factory=OwnerRecord)


@dataclass(slots=True)
class Node:
    number: int
    kind: Kind
    owner: Owner
    joins_at: int = 0
    record: NodeRecord = field(default_factory=NodeRecord)
    valid: int = 0  # in a row, as BOINC counts
    lies_now: bool = False
    earned: int = 0  # runs paid
    earned_by_lies: int = 0
    computed: int = 0  # runs that it really did


def population(scene: Scene, chance: Random) -> list[Node]:
    nodes: list[Node] = []
    owners = 0
    for kind in Kind:
        left = scene.count(kind)
        size_of_first = RING_OWNER_SIZE if kind is Kind.COLLUDING else 1
        first = True
        while left:
            size = chance.choice(OWNER_SIZES) if kind is Kind.HONEST else size_of_first if first else 1
            if kind is Kind.SOCK_PUPPET:
                size = -(-scene.count(kind) // PUPPET_ACCOUNTS)
            first = False
            owner = Owner(owners)
            owners += 1
            for _ in range(min(size, left)):
                nodes.append(Node(len(nodes), kind, owner))
            left -= min(size, left)
    for node in nodes:
        if node.kind is Kind.HONEST and chance.random() < scene.late_joiners:
            node.joins_at = chance.randrange(scene.rounds)
    return nodes


class Answers:
    """What nodes return. Wrong answers of different nodes differ, but for NOTHING and RING."""

    def __init__(self, scene: Scene, chance: Random) -> None:
        self._scene, self._chance = scene, chance
        self._rubbish = 0

    def of(self, node: Node, *, trusted: bool, ring_lied: bool) -> int:
        """`trusted`: by its own standing. `ring_lied`: a friend gave the ring's answer to this task."""
        answer = self._answer(node, trusted=trusted, ring_lied=ring_lied)
        if answer == RIGHT:
            node.computed += 1
            if self._chance.random() < self._scene.honest_errors:
                return self._new_rubbish()
        return answer

    def _answer(self, node: Node, *, trusted: bool, ring_lied: bool) -> int:
        match node.kind:
            case Kind.HONEST:
                return RIGHT
            case Kind.LAZY:
                return NOTHING
            case Kind.LYING:
                return self._new_rubbish()
            case Kind.IDLER:
                return IDLED if self._chance.random() < 0.5 else NOTHING
            case Kind.SNEAKY:
                lies = trusted and self._chance.random() < self._scene.sneaky_lies
                return self._new_rubbish() if lies else RIGHT
        node.lies_now = node.lies_now or trusted
        if node.kind in {Kind.COLLUDING, Kind.SOCK_PUPPET}:
            return RING if ring_lied or node.lies_now else RIGHT
        return self._new_rubbish() if node.lies_now else RIGHT

    def _new_rubbish(self) -> int:
        self._rubbish += 1
        return self._rubbish
