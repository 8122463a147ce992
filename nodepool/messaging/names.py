"""Names of Celery tasks, queues and exchanges: what dispatchers, agents and gateways have to agree on.

Knows no broker: who may use what is in stores/redis/broker_users.
"""

from __future__ import annotations

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
