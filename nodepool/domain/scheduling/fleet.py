"""The fleet as arrays: what placement knows of every node, so that a whole fleet is scored at once.

Pure: whoever mirrors Redis into it passes in what was read. Rows are reused; a row's number means
something only as long as its node is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodepool.domain import regions
from nodepool.domain.capabilities import ALL, capabilities_of
from nodepool.domain.nodes import message_limits
from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.trust.audits import Rules, one_at_a_time
from nodepool.domain.trust.tiers import RANK, TIERS, Tier

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
RowArray = npt.NDArray[np.intp]

REGION_INDEX = {slug: index for index, slug in enumerate(regions.NODE_REGIONS)}
NO_GPU = 0
_MIN_ROWS = 16
# One number ranks a node: trust, then load, then history, then how little it has (best fit). The
# distance of its region comes between trust and load, and is added by who asks.
LOAD_STEPS, QUALITY_STEPS = 20, 20
_QUALITY_WEIGHT = 2.0
_LOAD_WEIGHT = _QUALITY_WEIGHT * (QUALITY_STEPS + 1)
DISTANCE_WEIGHT = _LOAD_WEIGHT * (LOAD_STEPS + 1)
_TIER_WEIGHT = DISTANCE_WEIGHT * (regions.MAX_DISTANCE + 1)
# More than any rank: a node that had the task before comes after all others.
AGAIN_WEIGHT = _TIER_WEIGHT * len(TIERS)
_FIT_HALF = 100_000.0
_BITS = 62
# Of nodes that nobody knows a bound of.
ANY_MESSAGE = np.iinfo(np.int64).max
_TASKS = RESOURCE_NAMES.index("tasks")
# The rule for a whole fleet at once: [is it trusted?][is there a trusted node of another owner?]
_ONE_AT_A_TIME = np.array(
    [
        [one_at_a_time(trusted=trusted, trusted_others=others) for others in (False, True)]
        for trusted in (False, True)
    ]
)


@dataclass(frozen=True, slots=True)
class Amounts:
    """A claim as a column, in the order of RESOURCE_NAMES."""

    column: IntArray
    requested: tuple[tuple[int, str], ...]  # index and name of what is more than nothing
    mask: BoolArray

    @classmethod
    def of(cls, claim: Claim) -> Amounts:
        column = np.array([getattr(claim, name) for name in RESOURCE_NAMES], dtype=np.int64)
        mask = column > 0
        requested = tuple((index, name) for index, name in enumerate(RESOURCE_NAMES) if mask[index])
        return cls(column, requested, mask)


class Fleet:
    """Rows of nodes. `rank` orders them: the smallest is the best. Not thread-safe."""

    def __init__(self, rows: int = _MIN_ROWS) -> None:
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self._free_rows: list[int] = []
        self._gpu_names: dict[str, int] = {"": NO_GPU}
        # A bit for each image that some node lacks; operators allow a handful.
        self._image_bits: dict[str, int] = {}
        # Owners with nodes for their own tasks only. To all others such nodes are alike.
        self.own_only: Counter[int] = Counter()
        # The largest messages that nodes take, in order, of those that do not take every message.
        self.message_bounds: tuple[int, ...] = ()
        self._bounds: Counter[int] = Counter()
        self._allocate(max(rows, _MIN_ROWS))

    @classmethod
    def of(cls, views: Iterable[NodeView], *, allow_pushed: bool = False) -> Fleet:
        """Rows in the order of the ids, so that equals are taken in that order."""
        ordered = sorted(views, key=lambda view: view.node_id)
        fleet = cls(len(ordered))
        fleet.allow_pushed = allow_pushed
        for view in ordered:
            fleet.put(view)
        return fleet

    allow_pushed = False
    # As many other owners must be here, or nobody could ever earn trust (audits.Rules.least_owners).
    least_owners = Rules().least_owners

    def _allocate(self, rows: int) -> None:
        self.present: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.online: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.draining: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.pushed: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.owner_only: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.on_trial: BoolArray = np.zeros(rows, dtype=np.bool_)
        # Of those that take no work, why.
        self.unfit: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.backs_off: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.later_generation: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.untold: BoolArray = np.zeros(rows, dtype=np.bool_)
        self.lacks: IntArray = np.zeros(rows, dtype=np.int64)
        # A bit for each that the node's agent has.
        self.capabilities: IntArray = np.zeros(rows, dtype=np.int64)
        self.message_bytes: IntArray = np.full(rows, ANY_MESSAGE, dtype=np.int64)
        self._one_task: BoolArray | None = None
        self.tier = np.zeros(rows, dtype=np.int8)
        self.region = np.zeros(rows, dtype=np.int8)
        self.gpu = np.zeros(rows, dtype=np.int32)
        self.owner: IntArray = np.zeros(rows, dtype=np.int64)
        self.quality: FloatArray = np.ones(rows)
        self.capacity: IntArray = np.zeros((len(RESOURCE_NAMES), rows), dtype=np.int64)
        self.reserved: IntArray = np.zeros((len(RESOURCE_NAMES), rows), dtype=np.int64)
        self.rank: FloatArray = np.zeros(rows)
        # Of the rank what load does not change, and what load is measured by.
        self._fixed: FloatArray = np.zeros(rows)
        self._divisor: FloatArray = np.ones((len(RESOURCE_NAMES), rows))

    def _grow(self) -> None:
        old = self.__dict__.copy()
        size = len(self.present)
        self._allocate(2 * size)
        for name, array in self.__dict__.items():
            if isinstance(array, np.ndarray):
                array[..., :size] = old[name]

    def __len__(self) -> int:
        return len(self.row_of)

    def gpu_code(self, name: str) -> int | None:
        """The number that stands for a GPU's name here; None when no node ever had it."""
        return self._gpu_names.get(name.casefold())

    def put(self, view: NodeView) -> int:
        """Add a node or bring it up to date; its row."""
        row = self.row_of.get(view.node_id)
        if row is None:
            row = self._new_row(view.node_id)
        before = self._standing(row)
        self.online[row], self.draining[row] = view.online, view.draining
        self.on_trial[row] = view.on_trial
        self.unfit[row], self.backs_off[row] = bool(view.unfit), view.backs_off
        self.later_generation[row] = view.generation == Generation.LATER
        self.untold[row] = view.generation == Generation.UNTOLD
        self._bound_message(row, view.message_bytes or ANY_MESSAGE)
        self.lacks[row] = sum(self._image_bit(image) for image in set(view.absent_images))
        self.capabilities[row] = _capability_bits(view.capabilities)
        self.pushed[row] = view.kind is NodeKind.PUSHED
        self.tier[row] = RANK[view.tier]
        self.region[row] = REGION_INDEX[view.region]
        self.gpu[row] = self._gpu_names.setdefault(view.gpu_name.casefold(), len(self._gpu_names))
        self._count_own(row, -1)
        self.owner[row], self.owner_only[row] = view.owner_id, view.owner_only
        self._count_own(row, 1)
        if self._standing(row) != before:
            self._one_task = None
        self.quality[row] = view.quality
        self.capacity[:, row] = Amounts.of(view.capacity).column
        self.reserved[:, row] = Amounts.of(view.reserved).column
        self._divisor[:, row] = np.where(self.capacity[:, row] > 0, self.capacity[:, row], np.inf)
        self._fixed[row] = self._rank_without_load(row)
        self._rank(row)
        return row

    def _image_bit(self, image: str) -> int:
        """0 where there are more images than bits: then every node is asked."""
        if image not in self._image_bits:
            self._image_bits[image] = 1 << len(self._image_bits) if len(self._image_bits) < _BITS else 0
        return self._image_bits[image]

    def has_image(self, image: str) -> BoolArray:
        """As far as is known: nodes that have refused it for that."""
        has: BoolArray = (self.lacks & self._image_bits.get(image, 0)) == 0
        return has

    def can(self, capability: str) -> BoolArray:
        """Nodes whose agents can do this for a run; none where this version knows no such thing."""
        can: BoolArray = (self.capabilities & _capability_bits(capability)) != 0
        return can

    def _bound_message(self, row: int, most: int) -> None:
        before, self.message_bytes[row] = int(self.message_bytes[row]), most
        if before == most:
            return
        self._bounds.subtract({before: 1})
        self._bounds[most] += 1
        self._bounds = Counter({bound: count for bound, count in self._bounds.items() if count > 0})
        self.message_bounds = tuple(sorted(self._bounds.keys() - {ANY_MESSAGE}))

    def too_small_for(self, package_bytes: int) -> int:
        """The largest bound on messages here that the package is over; 0 where it is over none.

        Packages between the same two bounds go to the same nodes: their tasks are alike.
        """
        size = message_limits.message_bytes(package_bytes)
        return next((bound for bound in reversed(self.message_bounds) if bound < size), 0)

    def _new_row(self, node_id: str) -> int:
        if self._free_rows:
            row = self._free_rows.pop()
            self.ids[row] = node_id
        else:
            row = len(self.ids)
            if row == len(self.present):
                self._grow()
            self.ids.append(node_id)
        self.row_of[node_id] = row
        self.present[row] = True
        self._one_task = None
        return row

    def remove(self, node_id: str) -> None:
        row = self.row_of.pop(node_id, None)
        if row is not None:
            self._count_own(row, -1)
            self._one_task = None
            self.present[row] = self.online[row] = self.owner_only[row] = self.on_trial[row] = False
            self.unfit[row] = self.backs_off[row] = False
            self.later_generation[row] = self.untold[row] = False
            self.lacks[row] = self.capabilities[row] = 0
            self._bound_message(row, ANY_MESSAGE)
            self._free_rows.append(row)

    def _count_own(self, row: int, change: int) -> None:
        if self.owner_only[row]:
            owner = int(self.owner[row])
            self.own_only[owner] += change
            if not self.own_only[owner]:
                del self.own_only[owner]

    def owner_that_counts(self, owner_id: int) -> int:
        """Whose task it is, where that makes a difference to some node here; else 0, alike for all.

        Equal requirements are worked out once: they must not differ for nothing.
        """
        return owner_id if owner_id in self.own_only else 0

    @property
    def one_task(self) -> BoolArray:
        """By rank of a task's tier: nodes that get one task at a time, because they are not trusted and
        others are there who are, and who may have such a task."""
        if self._one_task is None:
            self._one_task = np.array([self._who_gets_one_task(rank) for rank in range(len(TIERS))])
        return self._one_task

    def has_its_one_task(self, tier: Tier) -> BoolArray:
        """Of these nodes those that have it; nothing else is given to them, however much room there is."""
        mask: BoolArray = self.one_task[RANK[tier]] & (self.reserved[_TASKS] > 0)
        return mask

    def gets_one_task(self, node_id: str, tier: Tier) -> bool:
        row = self.row_of.get(node_id)
        return row is not None and bool(self.one_task[RANK[tier], row])

    def _standing(self, row: int) -> tuple[object, ...]:
        """All that decides who gets one task at a time."""
        columns = (self.online, self.draining, self.on_trial, self.pushed, self.owner, self.owner_only)
        return (self.tier[row], *(column[row] for column in columns))

    def _who_gets_one_task(self, rank: int) -> BoolArray:
        if not self.on_trial.any():
            return np.zeros(len(self.present), dtype=np.bool_)
        takes = self.present & ~self.owner_only & (~self.pushed | self.allow_pushed)
        trusted = takes & self.online & ~self.draining & ~self.on_trial & (self.tier >= rank)
        preferred = np.unique(self.owner[trusted])
        others: BoolArray = np.full(len(takes), len(preferred) > 1)
        if len(preferred) == 1:
            others = self.owner != preferred[0]
        if len(np.unique(self.owner[takes])) <= self.least_owners:
            others = np.zeros_like(takes)
        limited: BoolArray = _ONE_AT_A_TIME[(~self.on_trial).astype(np.intp), others.astype(np.intp)]
        return limited & self.present

    def take(self, row: int, amounts: Amounts) -> None:
        self.reserved[:, row] += amounts.column
        self._rank(row)

    def give_back(self, row: int, amounts: Amounts) -> None:
        self.reserved[:, row] = np.maximum(self.reserved[:, row] - amounts.column, 0)
        self._rank(row)

    def fits(self, row: int, amounts: Amounts, tier: Tier = Tier.HIGH) -> bool:
        """Whether there is room for it now on a node that takes work."""
        return bool(
            self.online[row]
            and not self.draining[row]
            and not (self.reserved[_TASKS, row] and self.one_task[RANK[tier], row])
            and (self.reserved[:, row] + amounts.column <= self.capacity[:, row])[amounts.mask].all()
        )

    def _rank(self, row: int) -> None:
        load = float((self.reserved[:, row] / self._divisor[:, row]).max())
        self.rank[row] = self._fixed[row] + _step(load, LOAD_STEPS) * _LOAD_WEIGHT

    def _rank_without_load(self, row: int) -> float:
        cpu = float(self.capacity[0, row])
        return (
            float(self.tier[row]) * _TIER_WEIGHT
            # Who has nothing is full.
            + (0.0 if self.capacity[:, row].any() else LOAD_STEPS * _LOAD_WEIGHT)
            + _step(1.0 - float(self.quality[row]), QUALITY_STEPS) * _QUALITY_WEIGHT
            # Of two equals the smaller one, which keeps the larger one free for larger tasks.
            + cpu / (cpu + _FIT_HALF)
        )

    def is_pushed(self, node_id: str) -> bool:
        row = self.row_of.get(node_id)
        return row is not None and bool(self.pushed[row])

    def view(self, row: int) -> NodeView:
        """The row as a value. The GPU's name comes back in lower case."""
        names = {code: name for name, code in self._gpu_names.items()}
        return NodeView(
            node_id=self.ids[row],
            tier=TIERS[int(self.tier[row])],
            region=regions.NODE_REGIONS[int(self.region[row])],
            gpu_name=names[int(self.gpu[row])],
            draining=bool(self.draining[row]),
            online=bool(self.online[row]),
            kind=NodeKind.PUSHED if self.pushed[row] else NodeKind.AGENT,
            capacity=Claim(*(int(amount) for amount in self.capacity[:, row])),
            reserved=Claim(*(int(amount) for amount in self.reserved[:, row])),
            quality=float(self.quality[row]),
            owner_id=int(self.owner[row]),
            owner_only=bool(self.owner_only[row]),
            on_trial=bool(self.on_trial[row]),
            capabilities=" ".join(it for it in ALL if self.capabilities[row] & _capability_bits(it)),
        )


def _capability_bits(capabilities: str) -> int:
    told = capabilities_of(capabilities)
    return sum(1 << index for index, capability in enumerate(ALL) if capability in told)


def _step(share: float, steps: int) -> int:
    """In coarse steps: a hair's breadth of load must not outweigh a good history."""
    return min(steps, max(0, int(share * steps)))
