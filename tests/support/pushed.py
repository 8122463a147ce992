"""A dispatcher without a worker, attempts on nodes without an agent, and a clock that a test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dispatcher import context
from dispatcher.context import open_files
from dispatcher.push.outcomes import PushOutcomes
from nodepool.domain.nodes.node import NodeKind
from nodepool.messaging.names import PUSH_QUEUE
from nodepool.settings import Settings
from nodepool.stores.sql import placements as placing, pushed_attempts, tasks as task_store
from nodepool.stores.sql.attempt_rows import PushedAttempt
from nodepool.stores.sql.placements import Placement
from nodepool.stores.sql.task_rows import OwnedTask
from tests.support.databases import sqlite_file
from tests.support.reservations import reserve
from tests.support.stores import CLAIM, add_node, add_task, add_user
from tests.support.tasks import script
from tests.support.valkey import TestValkey

START = 1_000_000.0
PACKAGE = script("print('hello')")


class PushedFleet:
    """`assigned` gives a task whose attempt is on a node; nothing is called by itself."""

    def __init__(self, valkey: TestValkey, folder: Path, **settings: Any) -> None:
        self.settings = Settings.model_validate(
            {
                "redis_url": valkey.url,
                "db_path": sqlite_file(folder / "users.db"),
                "task_storage_path": folder / "storage",
                "push_to_nodes": True,
                "push_allowed_networks": "127.0.0.0/8",
                "push_timeout_seconds": 10.0,
                **settings,
            }
        )
        self.now = START
        self.dispatcher = context.build(self.settings, clock=lambda: self.now, steady=lambda: self.now)
        self.files = open_files(self.settings)
        self.effects = PushOutcomes(self.dispatcher, self.files)
        self.redis = valkey.admin
        self.owner_id = self.dispatcher.database.write(add_user)

    def node(self, node_id: str = "worker", **facts: Any) -> str:
        facts = {"hostname": "127.0.0.1", "port": 1, "kind": NodeKind.PUSHED, "max_tasks": 1, **facts}
        self.dispatcher.database.write(lambda c: add_node(c, self.owner_id, node_id, now=self.now, **facts))
        self.dispatcher.lifecycle.sync_node(node_id)
        self.report(node_id)
        return node_id

    def report(self, node_id: str) -> None:
        self.dispatcher.registry.write_report(node_id, at=self.now)

    def assigned(self, node_id: str, **columns: Any) -> str:
        """The id of the first attempt of a new task."""
        columns = {
            "created_at": self.now,
            "updated_at": self.now,
            "hinted_at": self.now,
            "package_sha256": self.files.put_package(PACKAGE),
            "package_bytes": len(PACKAGE),
            **columns,
        }
        task_id = self.dispatcher.database.write(lambda c: add_task(c, self.owner_id, **columns))
        self.place(task_id, node_id)
        return f"{task_id}:1"

    def place(self, task_id: str, node_id: str, number: int = 1) -> None:
        placement = Placement(task_id, number, node_id, CLAIM, f"{task_id}:{number}")
        registry = self.dispatcher.registry
        assert reserve(registry, node_id, f"{task_id}:{number}", CLAIM, at=self.now) == "ok"
        assert self.dispatcher.database.write(lambda c: placing.place_all(c, [placement], self.now)).placed

    def sent(self, attempt_id: str) -> None:
        """As if a dispatcher had called the node, and died."""
        assert self.dispatcher.database.write(lambda c: pushed_attempts.mark_pushed(c, attempt_id, self.now))

    def claimed(self, attempt_id: str, node_id: str) -> None:
        self.sent(attempt_id)
        self.dispatcher.database.write(
            lambda c: task_store.claim_attempt(c, attempt_id, node_id, self.owner_id, self.now)
        )

    def stop(self, attempt_id: str) -> None:
        task_id = attempt_id.rpartition(":")[0]
        self.dispatcher.database.write(lambda c: task_store.request_stop(c, task_id, self.now))

    def attempt(self, attempt_id: str) -> PushedAttempt:
        row = self.effects.find(attempt_id)
        assert row is not None
        return row

    def reason(self, attempt_id: str) -> str:
        return self.task(attempt_id).reason

    def task(self, attempt_id: str) -> OwnedTask:
        return self.dispatcher.database.read(lambda c: task_store.find(c, attempt_id.rpartition(":")[0]))

    def hints(self) -> int:
        return int(self.redis.llen(PUSH_QUEUE))

    def close(self) -> None:
        self.dispatcher.close()
