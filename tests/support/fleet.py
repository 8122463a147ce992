"""A dispatcher without a worker, for tests that move its clock and call its passes themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from dispatcher.context import Dispatcher
from dispatcher.placing.placement_loop import PlacementLoop
from dispatcher.sweep.sweeper import Sweeper
from nodepool.domain.resources import Claim
from nodepool.stores.redis import keys
from nodepool.stores.sql import tasks as task_store
from nodepool.stores.sql.task_rows import OwnedTask
from tests.support.stores import add_node, add_task, assigned_ids, attempt_of

START = 1_000_000.0
# All of it counts as silence of whoever is not heard.
_LONGEST_PAUSE_SECONDS = 5.0
_MOST_PASSES = 130


@dataclass
class Fleet:
    """A dispatcher without a worker, its sweep, and a clock that moves when a test says so."""

    dispatcher: Dispatcher
    now: list[float]
    owner_id: int
    gateway_serves: bool = True
    placement_loop: PlacementLoop = field(init=False)
    sweeper: Sweeper = field(init=False)

    def __post_init__(self) -> None:
        self.placement_loop = PlacementLoop(self.dispatcher)
        self.sweeper = Sweeper(self.dispatcher, self.placement_loop)

    def place(self, *task_ids: str) -> int:
        """What the placement loop's thread does after these hints and a look around; how many it placed."""
        self.placement_loop.hint(*task_ids)
        self.placement_loop.look_again()
        return self.placement_loop.work()

    def sweep(self, *, after: float = 0.0, heard: tuple[str, ...] | None = None) -> None:
        """A pass `after` seconds later, and as many before it as a sweep makes that does not stand still;
        before each `heard` nodes report what they have. Through hours it stands still."""
        if after > _MOST_PASSES * _LONGEST_PAUSE_SECONDS:
            self._pass(after - 1, heard or ())
            after = 1.0
        while after > _LONGEST_PAUSE_SECONDS:
            after -= _LONGEST_PAUSE_SECONDS
            self._pass(_LONGEST_PAUSE_SECONDS, heard or ())
        self._pass(after, heard or ())
        self.place()

    def _pass(self, after: float, heard: tuple[str, ...]) -> None:
        self.now[0] += after
        for node_id in heard:
            self.report(node_id)
        if self.gateway_serves:
            self.dispatcher.liveness.say_gateway_serves()
        self.sweeper.sweep()

    def node(self, node_id: str, **facts: Any) -> str:
        now = self.now[0]
        self.dispatcher.database.write(lambda c: add_node(c, self.owner_id, node_id, now=now, **facts))
        self.dispatcher.lifecycle.sync_node(node_id)
        self.report(node_id)
        return node_id

    def report(self, node_id: str) -> None:
        running = [{"attempt_id": name} for name in assigned_ids(self.dispatcher.registry, node_id)]
        body = {"v": 1, "cpu_percent": 1, "memory_percent": 1, "running": running}
        self.dispatcher.redis.set(keys.report(node_id), json.dumps(body), ex=keys.REPORT_TTL_SECONDS)

    def silence(self, *node_ids: str) -> None:
        for node_id in node_ids:
            self.dispatcher.redis.delete(keys.report(node_id))

    def task(self, **columns: Any) -> str:
        now = self.now[0]
        columns = {"created_at": now, "updated_at": now, "hinted_at": now, **columns}
        return self.dispatcher.database.write(lambda c: add_task(c, self.owner_id, **columns))

    def placed(self, **columns: Any) -> str:
        task_id = self.task(**columns)
        assert self.place(task_id) == 1
        return task_id

    def running(self, **columns: Any) -> str:
        """One that its node has begun."""
        task_id = self.placed(**columns)
        attempt, node_id = attempt_of(self.dispatcher.database, task_id), self.row(task_id).node_id
        self.dispatcher.database.write(
            lambda c: task_store.claim_attempt(c, attempt, node_id, self.owner_id, self.now[0])
        )
        return task_id

    def row(self, task_id: str) -> OwnedTask:
        return self.dispatcher.database.read(lambda c: task_store.find(c, task_id))

    def states(self, *task_ids: str) -> list[str]:
        return [self.row(task_id).state for task_id in task_ids]

    def reserved(self, node_id: str) -> Claim:
        return {view.node_id: view.reserved for view in self.dispatcher.registry.snapshot(15)}[node_id]

    def hints(self, queue: str) -> int:
        return self.dispatcher.registry.queue_lengths([queue])[queue]
