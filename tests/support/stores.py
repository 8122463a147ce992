"""People, nodes and tasks straight in the database, for tests of what lies under the gateway."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, insert

from nodepool.domain.nodes.isolation import Isolation
from nodepool.domain.nodes.node import NodeFacts, NodeKind
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.tasks.states import TaskState
from nodepool.stores.redis import keys
from nodepool.stores.redis.node_registry import NodeRegistry
from nodepool.stores.sql import (
    attempts as attempt_records,
    nodes as node_store,
    placements as placing,
    tasks as task_store,
)
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.migrate import migrate
from nodepool.stores.sql.placements import Placement
from nodepool.stores.sql.tables import users

CLAIM = Claim(cpu_score=100, memory_mb=512, gpu_score=0, gpu_memory_gb=0)


def assigned_ids(registry: NodeRegistry, node_id: str) -> set[str]:
    """The attempts that are listed for the node."""
    return {name.decode() for name in registry._redis.hkeys(keys.assigned(node_id))}  # type: ignore[union-attr]


@contextmanager
def migrated(url: str) -> Iterator[Database]:
    database = Database(url)
    try:
        migrate(database)
        yield database
    finally:
        database.close()


def add_user(connection: Connection, name: str = "owner", *, credit_score: int = 100) -> int:
    values = {"username": name, "password_hash": "", "credit_score": credit_score, "created_at": 0.0}
    key = connection.execute(insert(users).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def add_node(
    connection: Connection,
    owner_id: int,
    node_id: str,
    *,
    now: float = 0.0,
    believed: bool = True,
    peer_address: str = "",
    **facts: Any,
) -> None:
    defaults: dict[str, Any] = {
        "node_id": node_id,
        "hostname": "host",
        "cpu_cores": 4,
        "total": Resources(cpu_score=4000, memory_gb=8),
        "location": "Asia",
        "region": "asia",
        "port": 0,
        "gpu_name": "",
        "docker_status": "running",
        "kind": NodeKind.AGENT,
        "max_tasks": 8,
        "isolation": Isolation.BUBBLEWRAP,
    }
    node_store.register(
        connection,
        NodeFacts(**{**defaults, **facts}),
        owner_id,
        now,
        believed=believed,
        peer_address=peer_address,
    )


def place(connection: Connection, task_id: str, node_id: str, *, number: int = 1, now: float = 1.0) -> bool:
    """QUEUED -> PLACED with this attempt on the node; False when the task is not in that state."""
    return task_id in placing.place_all(connection, [placement(task_id, node_id, number=number)], now).placed


def placement(task_id: str, node_id: str, *, number: int = 1, claim: Claim = CLAIM) -> Placement:
    """With an id that tests can spell; earlier versions of the pool gave such ids too."""
    return Placement(task_id, number, node_id, claim, f"{task_id}:{number}")


def attempt_of(database: Database, task_id: str, number: int = 0) -> str:
    """The id of this attempt of a task that a dispatcher placed; of its current one, when none is named."""

    def look(connection: Connection) -> str:
        wanted = number or task_store.find(connection, task_id).attempt_number
        return attempt_records.id_of(connection, task_id, wanted)

    return database.read(look)


def add_task(connection: Connection, owner_id: int, task_id: str = "", **columns: Any) -> str:
    values: dict[str, Any] = {
        "id": task_id or f"task_{secrets.token_hex(6)}",
        "owner_id": owner_id,
        "state": TaskState.QUEUED,
        "cpu_score": CLAIM.cpu_score,
        "memory_gb": 0,
        "gpu_score": 0,
        "gpu_memory_gb": 0,
        "gpu_name": "",
        "region": "any",
        "tier": "high",
        "image": "image",
        "network": False,
        "max_minutes": 60,
        "package_sha256": "0" * 64,
        "package_bytes": 1,
        "created_at": 0.0,
        "updated_at": 0.0,
        "hinted_at": 0.0,
    }
    task_store.insert_task(connection, {**values, **columns})
    return str({**values, **columns}["id"])
