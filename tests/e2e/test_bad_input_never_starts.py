"""A node that takes work, says that it has it, and never begins it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from nodepool.stores.redis import keys
from tests.support.faults import attempts_of
from tests.support.pool import PoolFactory, TestPool
from tests.support.rogue import REPORT_TTL_SECONDS, RogueNode, task_of


class Idler(RogueNode):
    """Reports all the time that it has what was assigned to it, and does nothing else."""

    def __init__(self, pool: TestPool) -> None:
        super().__init__(pool, pool.register_user())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._idle, daemon=True)

    def report(self) -> None:
        admin = self.pool.valkey.admin
        running = [{"attempt_id": name} for name in admin.hgetall(f"node:{self.node_id}:assigned")]
        report = {"v": 1, "at": 0, "cpu_percent": 0.0, "memory_percent": 0.0, "running": running}
        admin.set(self.report_key, json.dumps(report), ex=REPORT_TTL_SECONDS)

    def start(self) -> None:
        self.join()
        self._thread.start()

    def end(self) -> None:  # type: ignore[override]
        self._ending.set()
        self._thread.join()

    def _idle(self) -> None:
        while not self._ending.wait(0.5):
            self.report()


@pytest.fixture
def idler(pool_factory: PoolFactory) -> Iterator[Idler]:
    idler = Idler(pool_factory(agents=0))
    idler.start()
    yield idler
    idler.end()


def test_what_a_node_never_begins_runs_elsewhere_and_is_remembered(idler: Idler) -> None:
    pool, user = idler.pool, idler.account
    # What was there before the dispatcher's first pass is held against nobody.
    pool.wait(lambda: pool.valkey.admin.exists(keys.SWEPT), "the dispatcher has swept")
    task = task_of(idler.chosen())
    honest = pool.add_agent()
    user.wait_for(task, "COMPLETED")
    rows = [(row.number, row.node_id, row.state) for row in attempts_of(pool, task)]
    assert rows == [(1, idler.node_id, "lost"), (2, honest.node_id, "finished")]
    (bad,) = (node for node in user.node_list() if node.node_id == idler.node_id)
    assert bad.status == "ONLINE"
    assert bad.history_weight > 0
    assert bad.success_rate < 1
