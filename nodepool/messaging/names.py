"""Names of Celery tasks, queues and exchanges: what dispatchers, agents and gateways have to agree on.

Knows no broker: who may use what is in stores/redis/broker_users.
"""

from __future__ import annotations

import uuid

from nodepool.domain.nodes.worker_events import CHANNEL_ENDS

PLACE = "dispatcher.place"
PUSH = "dispatcher.push"
PUSH_STOP = "dispatcher.push_stop"
PUSH_ASK = "dispatcher.push_ask"
EXECUTE = "worker_agent.execute"
STOP = "worker_agent.stop"
# What is told to nodes without an agent. A queue of its own, so that no backlog of tasks to place holds
# it up, and so that the dispatchers that call strangers' machines may be others than those that place.
PUSH_QUEUE = "push"
# A look at what is to be sent to people's targets. A queue of its own, for the same reasons.
NOTIFY = "dispatcher.notify"
NOTIFY_QUEUE = "notify"


# Of messages whose id follows from what they are about.
_IDS = uuid.UUID("7c2f0a9e-5d3b-4a51-9a58-0a4f6c1d2e3b")


def message_id(name: str, argument: str) -> str:
    """Of the message that brings an attempt to its node: a second one is the same to who watches."""
    return str(uuid.uuid5(_IDS, f"{name}\n{argument}"))


def shown_arguments(task_id: str, attempt_id: str, node_id: str) -> str:
    """What Flower shows as the arguments of the message that brings an attempt to its node."""
    return f"task={task_id!r}, attempt={attempt_id!r}, node={node_id!r}"


def partition_queue(tier: str, region: str) -> str:
    return f"{tier}.{region}"


def node_queue(node_id: str) -> str:
    return f"node.{node_id}"


def control_exchange(node_id: str) -> str:
    return f"ctl.{node_id}"


def event_exchange(node_id: str) -> str:
    return f"celeryev/{node_id}"


def event_channels(node_id: str, database: int) -> list[str]:
    """Every channel that a node's worker publishes events on; for an empty id the pool's own workers'."""
    exchange = event_exchange(node_id) if node_id else "celeryev"
    return [f"/{database}.{exchange}/{end}" for end in CHANNEL_ENDS]
