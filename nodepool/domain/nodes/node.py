"""What the pool knows of a node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.nodes.isolation import Isolation, keeps_strangers_out
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.safe_text import is_plain
from nodepool.domain.trust.tiers import Tier, docker_works

MAX_TASKS_LIMIT = 256
# What an agent says of its containers' engine while that is gone: it runs nothing, and gets nothing.
ENGINE_AWAY = "stopped"
_MAX_TEXT = 200
_MAX_CORES = 4096
# More than any single machine has; whoever says so draws tasks that it cannot run.
_MAX_NODE_MEMORY_GB = 1 << 16


class NodeKind(StrEnum):
    AGENT = "agent"  # consumes its own queue
    PUSHED = "pushed"  # serves WorkerNodeService and is called


class NodeStatus(StrEnum):
    ONLINE = "ONLINE"
    DRAINING = "DRAINING"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself when it registers."""

    node_id: str
    hostname: str
    cpu_cores: int
    total: Resources
    location: str  # the word it registered with
    region: str
    port: int
    gpu_name: str
    docker_status: str
    kind: NodeKind
    max_tasks: int
    isolation: str = ""  # one of Isolation; empty: it does not tell
    unfit: str = ""  # why it can run nothing now; empty: it can
    accepts_strangers: bool = False  # its owner wants others' tasks though it keeps them off nothing
    capabilities: str = ""  # what its agent can do for a run; see nodepool.domain.capabilities
    generation: str = ""  # one of Generation, as far as a registration shows it

    def __post_init__(self) -> None:
        if not 0 <= self.cpu_cores <= _MAX_CORES:
            raise InvalidInputError(f"cpu_cores must be 0 to {_MAX_CORES}, not {self.cpu_cores}")
        for name in ("memory_gb", "gpu_memory_gb"):
            amount = getattr(self.total, name)
            if amount > _MAX_NODE_MEMORY_GB:
                raise InvalidInputError(f"{name} must be at most {_MAX_NODE_MEMORY_GB}, not {amount}")
        if not 0 <= self.port <= 65535:
            raise InvalidInputError(f"port must be 0 to 65535, not {self.port}")
        if not 0 <= self.max_tasks <= MAX_TASKS_LIMIT:
            raise InvalidInputError(f"max_tasks must be 0 to {MAX_TASKS_LIMIT}, not {self.max_tasks}")
        for name in ("hostname", "location", "gpu_name", "docker_status", "unfit"):
            text = getattr(self, name)
            if len(text) > _MAX_TEXT or not is_plain(text):
                raise InvalidInputError(f"{name} must be at most {_MAX_TEXT} printable characters")
        if self.isolation and self.isolation not in set(Isolation):
            raise InvalidInputError(f"isolation must be one of {', '.join(Isolation)}, or empty")


def isolation_of(told: str, docker_status: str) -> Isolation:
    """How far a node keeps runs apart. Older agents and workers do not tell: theirs is Docker, or nothing."""
    if told:
        return Isolation(told)
    engine = docker_works(docker_status) or docker_status == ENGINE_AWAY
    return Isolation.CONTAINER if engine else Isolation.NONE


def is_owner_only(kind: str, level: Isolation, *, accepts_strangers: bool) -> bool:
    """Whether the node takes its owner's tasks and nobody else's.

    A worker without an agent has been set up by its owner to run what others send, and cannot say so.
    """
    return kind == NodeKind.AGENT and not keeps_strangers_out(level) and not accepts_strangers


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as placement sees it: one row of the snapshot."""

    node_id: str
    tier: Tier
    region: str
    gpu_name: str
    draining: bool
    online: bool
    kind: NodeKind = NodeKind.AGENT
    capacity: Claim
    reserved: Claim
    quality: float = 1.0  # 0-1, of its history
    owner_id: int = 0  # 0: not told
    owner_only: bool = False  # it takes its owner's tasks only
    # Its results are checked, and it is not trusted yet: one task at a time where others are to be preferred.
    on_trial: bool = False
    unfit: str = ""  # why it can run nothing now, by its own word
    backs_off: bool = False  # it refused what it was given, and is left alone for a while
    absent_images: tuple[str, ...] = ()
    capabilities: str = ""  # what its agent can do for a run, with blanks between
    message_bytes: int = 0  # the largest that it takes, of a pushed one; 0: as large as any
    generation: str = ""  # one of Generation


def default_max_tasks(cpu_cores: int) -> int:
    """How many attempts a node runs at once when it does not say: two a core, at least four."""
    return min(MAX_TASKS_LIMIT, max(4, 2 * cpu_cores))
