"""Every Redis key and channel of the pool, in one place. docs/redis-keys.md explains them."""

from __future__ import annotations

NODES = "nodes"  # set of the ids of active nodes
POOL_ID = "pool:id"  # whose broker this is
LATE_NODES = "nodes:late"  # hash: nodes that are known to be late, since when
LOST_NODES = "nodes:lost"  # hash: those whose work was given away, since when
SWEEPER = "pool:sweeper"  # which dispatcher sweeps now
SWEPT = "pool:swept"  # the mark of the last pass of the sweep
WRITTEN = "pool:written"  # an ordinary write, which shows that others would be taken
GATEWAY = "pool:gateway"  # there while a gateway serves
POOL_TIME = "pool:time"  # by how much the pool's time differs from the broker's clock, seconds
RELEASE = "pool:release"  # set by an operator: nodes that vanished at once are really gone
PACE = "pool:pace"  # how often agents report now, seconds; every agent may read it
AGENT_USERS = "pool:agent-users"  # what agents' broker users were made with
OWNER_EVENTS_CHANNEL = "owner-events"  # a user's id, when their credit score opens another tier
NODE_EVENTS_CHANNEL = "node-events"  # a node's id, whenever it has more room or its facts changed
MONITOR_CHANNEL = "monitor-words"  # the pool's word to Flower on ends of attempts and nodes that left
EVENTS_CHANNEL = "task-events"  # a task's id, whenever something of it changed

# Of live output: how much each attempt has there, all of them together, and which have ended.
OUTPUT_SIZES = "outputs:sizes"
OUTPUT_TOTAL = "outputs:total"
OUTPUT_ENDED = "outputs:ended"

OUTPUT_TTL_SECONDS = 24 * 3600
# After the attempt's end: who watches reads what is new, everybody else the stored log.
ENDED_OUTPUT_SECONDS = 30
REPORT_TTL_SECONDS = 60
WORD_TTL_SECONDS = 3600
# Longer than any run.
WORK_TTL_SECONDS = 30 * 86400
PACE_TTL_SECONDS = 60
GATEWAY_TTL_SECONDS = 15
SWEPT_TTL_SECONDS = 24 * 3600

# Keys that live without a TTL. Everything else must have one; a test checks it.
PERSISTENT_PATTERNS = (
    "pool:id",
    "pool:time",
    "nodes",
    "pool:agent-users",
    "node:*:facts",
    "node:*:assigned",
    "node:*:reserved",
    "node:*:instance",
    "nodes:late",
    "nodes:lost",
    # Celery's: queues as lists, and what its events and remote control leave behind.
    "node.*",
    "high.*",
    "normal.*",
    "low.*",
    "push",
    "_kombu.binding*",
    "*.pidbox",
    "unacked*",
)


def requests(window: int, bucket: str) -> str:
    """What all gateways let through of one bound in this minute."""
    return f"rate:requests:{window}:{bucket}"


def attempts_at_name(verb: str, name: str) -> str:
    """How often somebody tried to log in as one user in this minute."""
    return f"rate:{verb}:name:{name}"


def attempts_of_peer(verb: str, address: str) -> str:
    return f"rate:{verb}:peer:{address}"


def usage(era: int) -> str:
    return f"pool:usage:{era}"


def facts(node_id: str) -> str:
    return f"node:{node_id}:facts"


def report(node_id: str) -> str:
    return f"node:{node_id}:report"


def assigned(node_id: str) -> str:
    return f"node:{node_id}:assigned"


def instance(node_id: str) -> str:
    return f"node:{node_id}:instance"


def reserved(node_id: str) -> str:
    return f"node:{node_id}:reserved"


def word(attempt_id: str) -> str:
    """When something was last heard of an attempt on a node without an agent, by its TTL."""
    return f"attempt:{attempt_id}:word"


def work(attempt_id: str) -> str:
    """The worker of an attempt on a node without an agent has reported that it runs."""
    return f"attempt:{attempt_id}:work"


def output(attempt_id: str) -> str:
    return f"attempt:{attempt_id}:output"
