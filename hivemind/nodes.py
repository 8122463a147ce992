"""Nodes as the pool lists them, and what a whole fleet of them sums up to.

Pure but for the protocol's messages; knows no connection and no terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hivemind.models import finite
from nodepool.domain.nodes.node import NodeStatus
from nodepool.domain.resources import MEBIBYTES_PER_GIBIBYTE
from nodepool.domain.trust.tiers import TIERS
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.wire import NODE_STATUS_WORDS

# A history that rests on less than this says little.
NEW_BELOW_ATTEMPTS = 3.0
_MEASURED = (
    *("cpu_percent", "memory_percent", "last_heartbeat"),
    *("success_rate", "relative_speed", "history_weight"),
)
UNFIT = "UNFIT"
_ONLINE = NODE_STATUS_WORDS[NodeStatus.ONLINE]
_OFFLINE = NODE_STATUS_WORDS[NodeStatus.OFFLINE]
_STATUS_RANK = {word: index for index, word in enumerate(NODE_STATUS_WORDS.values())}
_TIER_RANK = {str(tier): index for index, tier in enumerate(TIERS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Scores in points, memory in the unit that the name says, measured use in percent of the whole machine.

    Capacity is what reservations may sum up to: the total with the pool's overcommit. `used` is what the
    running tasks were last measured to use. History is decayed: `success_rate` 0-1, `relative_speed` 1 for a
    node as fast as its cpu_score promises, `history_weight` the number of attempts that both rest on.
    """

    node_id: str
    status: str
    owner: str
    hostname: str
    port: int
    kind: str
    region: str
    location: str
    trust_tier: str
    docker_status: str
    draining: bool
    cpu_cores: int
    cpu_score: int
    memory_gb: int
    gpu_name: str
    gpu_score: int
    gpu_memory_gb: int
    running_tasks: int
    max_tasks: int
    capacity_cpu_score: int
    capacity_memory_mb: int
    capacity_gpu_score: int
    capacity_gpu_memory_gb: int
    reserved_cpu_score: int
    reserved_memory_gb: int
    reserved_memory_mb: int
    reserved_gpu_score: int
    reserved_gpu_memory_gb: int
    used_cpu_score: int
    used_memory_mb: int
    cpu_percent: float
    memory_percent: float
    success_rate: float
    relative_speed: float
    history_weight: float
    on_probation: bool
    last_heartbeat: float
    isolation: str = ""  # empty: the pool does not say
    owner_only: bool = False  # it runs its owner's tasks only
    on_trial: bool = False  # one task at a time until its results are verified
    unfit: str = ""  # why it gets no work now
    capabilities: tuple[str, ...] = ()  # what its agent can do for a run; an older one, or none, says nothing
    largest_message_bytes: int = 0  # larger packages are not offered to it; 0: not known

    @property
    def offline(self) -> bool:
        return self.status == _OFFLINE

    @property
    def shown_status(self) -> str:
        """For people: one that is there and gets no work, by its word or since it refused it, is unfit."""
        return UNFIT if self.unfit and self.status == _ONLINE else self.status

    @property
    def new(self) -> bool:
        """Too little is known of how it does."""
        return self.history_weight < NEW_BELOW_ATTEMPTS

    @property
    def cpu(self) -> Load:
        return Load(self.used_cpu_score, self.reserved_cpu_score, self.capacity_cpu_score)

    @property
    def memory(self) -> Load:
        """In MiB."""
        return Load(self.used_memory_mb, self.reserved_memory_mb, self.capacity_memory_mb)

    @property
    def gpu(self) -> Load:
        return Load(0, self.reserved_gpu_score, self.capacity_gpu_score)

    @property
    def gpu_memory(self) -> Load:
        return Load(0, self.reserved_gpu_memory_gb, self.capacity_gpu_memory_gb)

    @property
    def load(self) -> float:
        """The largest reserved share of anything it has, as placement sees it: 0 idle, 1 full."""
        tasks = Load(0, self.running_tasks, self.max_tasks)
        loads = (self.cpu, self.memory, self.gpu, self.gpu_memory, tasks)
        return max(load.reserved_share for load in loads)


@dataclass(frozen=True, slots=True)
class Load:
    """How much of a capacity is measured to be used, and how much is reserved."""

    used: int
    reserved: int
    capacity: int

    @property
    def used_share(self) -> float:
        return _share(self.used, self.capacity)

    @property
    def reserved_share(self) -> float:
        return _share(self.reserved, self.capacity)

    def __add__(self, other: Load) -> Load:
        return Load(self.used + other.used, self.reserved + other.reserved, self.capacity + other.capacity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Of a fleet. Amounts leave out what is offline: nobody can use it."""

    nodes: int
    online: int
    draining: int
    offline: int
    unfit: int  # of those online
    running_tasks: int
    max_tasks: int
    cpu: Load
    memory: Load
    gpu: Load


class NodeOrder(StrEnum):
    LOAD = "load"
    NAME = "name"
    TIER = "tier"
    TASKS = "tasks"


def node_from_wire(node: pb.WorkerNodeInfo) -> NodeInfo:
    # Named alike on purpose.
    values = {name: getattr(node, name) for name in NodeInfo.__dataclass_fields__}
    values.update({name: finite(values[name]) for name in _MEASURED})
    values["capabilities"] = tuple(node.capabilities)
    # A pool that tells no capacity tells amounts without overcommit, and memory in whole GiB.
    values["capacity_cpu_score"] = node.capacity_cpu_score or node.cpu_score
    values["capacity_memory_mb"] = node.capacity_memory_mb or node.memory_gb * MEBIBYTES_PER_GIBIBYTE
    values["capacity_gpu_score"] = node.capacity_gpu_score or node.gpu_score
    values["capacity_gpu_memory_gb"] = node.capacity_gpu_memory_gb or node.gpu_memory_gb
    values["reserved_memory_mb"] = node.reserved_memory_mb or node.reserved_memory_gb * MEBIBYTES_PER_GIBIBYTE
    return NodeInfo(**values)


def totals_of(nodes: Iterable[NodeInfo]) -> Totals:
    counted = dict.fromkeys(NODE_STATUS_WORDS.values(), 0)
    count = unfit = running = most = 0
    cpu = memory = gpu = Load(0, 0, 0)
    for node in nodes:
        count += 1
        counted[node.status] = counted.get(node.status, 0) + 1
        if node.offline:
            continue
        unfit += node.shown_status == UNFIT
        running += node.running_tasks
        most += node.max_tasks
        cpu, memory, gpu = cpu + node.cpu, memory + node.memory, gpu + node.gpu
    return Totals(
        nodes=count,
        online=counted[_ONLINE],
        draining=counted[NODE_STATUS_WORDS[NodeStatus.DRAINING]],
        offline=counted[_OFFLINE],
        unfit=unfit,
        running_tasks=running,
        max_tasks=most,
        cpu=cpu,
        memory=memory,
        gpu=gpu,
    )


def in_order(nodes: Iterable[NodeInfo], order: NodeOrder) -> list[NodeInfo]:
    """Sorted for a person: by name, or what is up first and then the most of what was asked for."""
    if order is NodeOrder.NAME:
        return sorted(nodes, key=lambda node: node.node_id)

    def key(node: NodeInfo) -> tuple[int, float, float, str]:
        match order:
            case NodeOrder.TIER:
                first = float(_TIER_RANK.get(node.trust_tier, len(_TIER_RANK)))
            case NodeOrder.TASKS:
                first = float(-node.running_tasks)
            case _:
                first = -node.load
        return (_STATUS_RANK.get(node.status, 0), first, -node.load, node.node_id)

    return sorted(nodes, key=key)


def _share(amount: int, capacity: int) -> float:
    return max(0.0, amount / capacity) if capacity > 0 else 0.0
