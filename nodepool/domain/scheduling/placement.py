"""Where a task goes: filter, then rank, over the fleet, with reasons.

Pure and optimistic: the atomic reservation is the judge, so a choice made on a stale picture costs
a second try and never a wrong allocation.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from nodepool.domain import regions
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fleet import (
    AGAIN_WEIGHT,
    DISTANCE_WEIGHT,
    REGION_INDEX,
    Amounts,
    BoolArray,
    Fleet,
    FloatArray,
    RowArray,
)
from nodepool.domain.sizes import size_words
from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.tasks.reasons import Reason, no_node
from nodepool.domain.trust.tiers import RANK, Tier

OTHER_NODE = Clause(ClauseKind.OTHER_NODE)
PUSHED = Clause(ClauseKind.PUSHED)
NEEDS_AGENT = Clause(ClauseKind.NEEDS_AGENT)
OWNER_ONLY = Clause(ClauseKind.OWNER_ONLY)
TRUST = Clause(ClauseKind.TRUST)
OTHER_OWNER = Clause(ClauseKind.OTHER_OWNER)
SECRETS = Clause(ClauseKind.SECRETS)
MIN_TRUST = Clause(ClauseKind.MIN_TRUST)
REGION = Clause(ClauseKind.REGION)
GPU_NAME = Clause(ClauseKind.GPU_NAME)
ON_TRIAL = Clause(ClauseKind.ON_TRIAL)
REFUSED_IT = Clause(ClauseKind.REFUSED_IT)
OFFLINE = Clause(ClauseKind.OFFLINE)
UNFIT = Clause(ClauseKind.UNFIT)
BACKS_OFF = Clause(ClauseKind.BACKS_OFF)
LATER_GENERATION = Clause(ClauseKind.LATER_GENERATION)
UNTOLD = Clause(ClauseKind.UNTOLD)
DRAINING = Clause(ClauseKind.DRAINING)

# How many of the best are kept at hand for tasks of equal needs.
_SHORT_LIST = 512
# So many of them are looked at together.
_RUN = 64
# A sample has so many times more.
_SAMPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a task asks of its node. Equal requirements are one group: what one cannot have, none can."""

    claim: Claim
    tier: Tier
    min_trust: Tier | None = None
    region: str = regions.ANY
    relaxed: bool = False  # the region is only preferred: the nearest first
    gpu_name: str = ""
    node_id: str = ""  # only this node, when not empty
    image: str = ""  # which a node may be known not to have
    excluded: frozenset[str] = frozenset()  # they come after all others
    refused_by: frozenset[str] = frozenset()  # they cannot have it
    over_bytes: int = 0  # its package is over this bound of a node's messages (Fleet.too_small_for)
    package_bytes: int = 0  # for words, where the task is looked at alone
    not_owners: frozenset[int] = frozenset()  # whose nodes may not have it
    needs_agent: bool = False  # an image or the network, which only agents can give
    capabilities: frozenset[str] = frozenset()  # that the node's agent must have
    owner_id: int = 0  # whose task it is, where that counts (Fleet.owner_that_counts)
    # Whose secrets it is given, where no others of low trust may have them: then only that user's own nodes.
    secrets_of: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Nodes that fit, best first, and how many failed on which clause."""

    ranked: tuple[str, ...]
    failed: Counter[Clause] = field(default_factory=Counter)
    looked_at: int = 0

    def reason(self) -> Reason:
        """Why no node was chosen, with numbers."""
        return no_node(self.looked_at, self.failed, hopeless=self.never_fits())

    def never_fits(self) -> bool:
        """True when waiting alone cannot help: no node failed on a clause that passes."""
        return not self.ranked and not any(clause.passes for clause in self.failed)


def place(requirements: Requirements, nodes: Iterable[NodeView], *, allow_pushed: bool = False) -> Decision:
    """Choose among `nodes`. A node that lost the task before is taken only when there is no other."""
    return decide(requirements, Fleet.of(nodes, allow_pushed=allow_pushed))


def decide(requirements: Requirements, fleet: Fleet) -> Decision:
    """All of it: every node that fits in order, and what keeps each of the others."""
    left = fleet.present.copy()
    failed: Counter[Clause] = Counter()
    for clause, keeps in _clauses(requirements, fleet):
        out = left & ~keeps
        if count := int(np.count_nonzero(out)):
            failed[clause] += count
            left &= keeps
    rows = np.flatnonzero(left)
    ranked = [fleet.ids[rows[index]] for index in np.lexsort((rows, _keys(requirements, fleet, rows)))]
    return Decision(tuple(ranked), failed, len(fleet))


def _clauses(requirements: Requirements, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    """What a node must be, in the order it is asked, each as a mask over the rows."""
    amounts = Amounts.of(requirements.claim)
    yield from _matching(requirements, fleet)
    yield from _large_enough(amounts, fleet)
    yield LATER_GENERATION, ~fleet.later_generation
    yield UNTOLD, ~fleet.untold
    yield OFFLINE, fleet.online
    yield UNFIT, ~fleet.unfit
    yield BACKS_OFF, ~fleet.backs_off
    yield DRAINING, ~fleet.draining
    yield from _with_room(amounts, requirements.tier, fleet)


def _large_enough(amounts: Amounts, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    for index, name in amounts.requested:
        yield Clause(ClauseKind.TOO_SMALL, name), fleet.capacity[index] >= amounts.column[index]


def _with_room(amounts: Amounts, tier: Tier, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    yield ON_TRIAL, ~fleet.has_its_one_task(tier)
    for index, name in amounts.requested:
        room = fleet.capacity[index] - fleet.reserved[index]
        yield Clause(ClauseKind.BUSY, name), room >= amounts.column[index]


def _matching(requirements: Requirements, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    if requirements.node_id:
        only = np.zeros(len(fleet.present), dtype=np.bool_)
        if (row := fleet.row_of.get(requirements.node_id)) is not None:
            only[row] = True
        yield OTHER_NODE, only
    yield from _able(requirements, fleet)
    yield OWNER_ONLY, ~fleet.owner_only | (fleet.owner == requirements.owner_id)
    # Whoever names a node of their own trusts it.
    if not requirements.node_id:
        yield TRUST, fleet.tier >= RANK[requirements.tier]
    if requirements.not_owners:
        yield OTHER_OWNER, ~np.isin(fleet.owner, list(requirements.not_owners))
    if requirements.secrets_of:
        yield SECRETS, (fleet.tier < RANK[Tier.LOW]) | (fleet.owner == requirements.secrets_of)
    if requirements.min_trust is not None:
        yield MIN_TRUST, fleet.tier <= RANK[requirements.min_trust]
    if requirements.region != regions.ANY and not requirements.relaxed:
        yield REGION, fleet.region == REGION_INDEX[requirements.region]
    yield from _known_not_to(requirements, fleet)
    if requirements.gpu_name:
        code = fleet.gpu_code(requirements.gpu_name)
        yield GPU_NAME, fleet.gpu == (-1 if code is None else code)


def _able(requirements: Requirements, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    """What speaks with the pool there, and how much of it that understands."""
    if not fleet.allow_pushed:
        yield PUSHED, ~fleet.pushed
    elif requirements.needs_agent:
        yield NEEDS_AGENT, ~fleet.pushed
    for capability in sorted(requirements.capabilities):
        yield Clause(ClauseKind.NOT_ABLE, capability), fleet.can(capability)


def _known_not_to(requirements: Requirements, fleet: Fleet) -> Iterable[tuple[Clause, BoolArray]]:
    """What nodes have refused before, and would refuse again."""
    if requirements.refused_by:
        yield REFUSED_IT, ~_rows(requirements.refused_by, fleet)
    if requirements.image:
        yield Clause(ClauseKind.IMAGE, requirements.image), fleet.has_image(requirements.image)
    if requirements.over_bytes:
        yield _message_size(requirements), fleet.message_bytes > requirements.over_bytes


def _message_size(requirements: Requirements) -> Clause:
    size = size_words(requirements.package_bytes) if requirements.package_bytes else "more"
    return Clause(ClauseKind.MESSAGE_SIZE, f"{size_words(requirements.over_bytes)}, this package has {size}")


def _rows(node_ids: frozenset[str], fleet: Fleet) -> BoolArray:
    mask = np.zeros(len(fleet.present), dtype=np.bool_)
    mask[[row for node_id in node_ids if (row := fleet.row_of.get(node_id)) is not None]] = True
    return mask


def _extra_keys(requirements: Requirements, fleet: Fleet) -> FloatArray | None:
    """What these requirements add to the rank of each row; None where it adds nothing."""
    extra: FloatArray | None = None
    if requirements.relaxed and requirements.region != regions.ANY:
        steps = np.array([regions.distance(requirements.region, slug) for slug in regions.NODE_REGIONS])
        extra = steps[fleet.region] * DISTANCE_WEIGHT
    again = [row for node_id in requirements.excluded if (row := fleet.row_of.get(node_id)) is not None]
    if again:
        extra = np.zeros(len(fleet.rank)) if extra is None else extra
        extra[again] += AGAIN_WEIGHT
    return extra


def _keys(requirements: Requirements, fleet: Fleet, rows: RowArray) -> FloatArray:
    extra = _extra_keys(requirements, fleet)
    return fleet.rank[rows] if extra is None else fleet.rank[rows] + extra[rows]


class Chooser:
    """Chooses nodes for one task after another of equal needs, without looking at the fleet each time.

    Holds a short list of the best. What was reserved on a node since is seen when its turn comes; a
    node that has more room again is told by `offer`. When facts of nodes change, it is of no use any more.
    """

    def __init__(self, requirements: Requirements, fleet: Fleet) -> None:
        self.amounts = Amounts.of(requirements.claim)
        self._tier = requirements.tier
        self._fleet = fleet
        self._matching = fleet.present.copy()
        for _, keeps in (*_matching(requirements, fleet), *_large_enough(self.amounts, fleet)):
            self._matching &= keeps
        self._extra = _extra_keys(requirements, fleet)
        # The short list in order, and up to where it is used up.
        self._rows: RowArray = np.empty(0, dtype=np.intp)
        self._list_keys: FloatArray = np.empty(0)
        self._at = 0
        # Those whose place has changed since, and those that were offered.
        self._heap: list[tuple[float, int]] = []
        # There may be more than the list holds, none of them better than this.
        self._cutoff = float("-inf")
        self._more = True

    def next(self) -> int | None:
        """The row of the best node with room now, or None. The caller takes the room there."""
        while True:
            while (first := self._first()) is not None:
                row, listed = first
                if self._fleet.fits(row, self.amounts, self._tier):
                    return row
                if listed:
                    self._at += 1
                else:
                    heapq.heappop(self._heap)
            if not self._more:
                return None
            self._fill()
            if not len(self._rows):
                return None

    def _first(self) -> tuple[int, bool] | None:
        """The best row whose place is still what it was; whether it comes from the list."""
        listed = self._first_listed()
        while self._heap:
            key, row = self._heap[0]
            now = self._key(row)
            if now <= key:
                if listed is None or (key, row) < listed:
                    return row, False
                break
            heapq.heappop(self._heap)
            self._put(now, row)
        return None if listed is None else (listed[1], True)

    def _first_listed(self) -> tuple[float, int] | None:
        rank, extra = self._fleet.rank, self._extra
        while self._at < len(self._rows):
            end = self._at + _RUN
            rows, keys = self._rows[self._at : end], self._list_keys[self._at : end]
            if self._key(int(rows[0])) <= keys[0]:
                return float(keys[0]), int(rows[0])
            # Nodes that one chooser has used others have used as well: they come in runs.
            now = rank[rows] if extra is None else rank[rows] + extra[rows]
            moved = now > keys
            count = len(rows) if moved.all() else int(moved.argmin())
            later = now[:count] <= self._cutoff
            for index in np.flatnonzero(later).tolist():
                heapq.heappush(self._heap, (float(now[index]), int(rows[index])))
            self._more |= not later.all()
            self._at += count
        return None

    def offer(self, row: int) -> bool:
        """A node has more room, or takes work again: whether these requirements fit there now."""
        fits = bool(self._matching[row]) and self._fleet.fits(row, self.amounts, self._tier)
        if fits:
            self._put(self._key(row), row)
        return fits

    def _put(self, key: float, row: int) -> None:
        if key <= self._cutoff:
            heapq.heappush(self._heap, (key, row))
        else:
            self._more = True

    def _key(self, row: int) -> float:
        key = float(self._fleet.rank[row])
        return key if self._extra is None else key + float(self._extra[row])

    def _fill(self) -> None:
        fleet = self._fleet
        mask = self._matching & fleet.online & ~fleet.draining
        for _, keeps in _with_room(self.amounts, self._tier, fleet):
            mask &= keeps
        rows = np.flatnonzero(mask)
        keys = fleet.rank[rows] if self._extra is None else fleet.rank[rows] + self._extra[rows]
        self._more = len(rows) > _SHORT_LIST
        self._cutoff = float("inf")
        if self._more:
            rows, keys = _short_list(rows, keys)
            self._cutoff = float(keys.max())
        order = np.lexsort((rows, keys))
        self._rows, self._list_keys, self._at = rows[order], keys[order], 0
        self._heap = []


def _short_list(rows: RowArray, keys: FloatArray) -> tuple[RowArray, FloatArray]:
    """Those with the smallest keys. Of very many only those are compared that are small beside a sample."""
    step = len(keys) // (_SAMPLE * _SHORT_LIST)
    if step > 1:
        bound = np.partition(keys[::step], 2 * _SHORT_LIST // step)[2 * _SHORT_LIST // step]
        few = keys <= bound
        if np.count_nonzero(few) >= _SHORT_LIST:
            rows, keys = rows[few], keys[few]
    best = np.argpartition(keys, _SHORT_LIST - 1)[:_SHORT_LIST]
    return rows[best], keys[best]
