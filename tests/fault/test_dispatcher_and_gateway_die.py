"""kill -9 of the pool's own parts in the middle: after a restart everything goes on."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.faults import WAITS, attempts_of, await_begun, let_go
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script

HALF_A_SECOND = "import time; print('begun', flush=True); time.sleep(0.5); print('done')"
FAILS = """
import os, sys, time
print("begun", "here", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
sys.exit(75)
"""
COUNTS = """
import os, time
n = 0
while not os.path.exists("go") or n < 400:
    print("line", n)
    n += 1
    time.sleep(0.01)
print("last", n)
"""


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1)


def ended_once(pool: TestPool, task: str) -> bool:
    return [row.exit_code for row in attempts_of(pool, task) if row.state == "finished"] == [0]


def test_tasks_end_when_the_dispatcher_is_killed_in_the_middle(pool: TestPool) -> None:
    user = pool.register_user()
    tasks = [user.submit(script(HALF_A_SECOND)) for _ in range(10)]
    pool.wait(lambda: any(user.poll(task).status != "PENDING" for task in tasks), "one has a node")
    pool.dispatcher.kill()
    tasks += [user.submit(script(HALF_A_SECOND)) for _ in range(4)]
    pool.dispatcher.start()
    for task in tasks:
        user.wait_for(task, "COMPLETED", timeout=90)
        assert ended_once(pool, task)


def test_a_task_that_runs_outlives_a_killed_dispatcher(pool: TestPool) -> None:
    user = pool.register_user()
    task = user.submit(script(WAITS))
    name = await_begun(pool, user, task)
    pool.dispatcher.kill()
    let_go(pool, pool.agents[0], task)
    # Ending needs no dispatcher.
    user.wait_for(task, "COMPLETED")
    pool.dispatcher.start()
    assert user.logs(task) == f"begun {name}\ndone {name}\n"
    assert ended_once(pool, task)


@dataclass
class Watcher:
    """Watches over restarts of the gateway, from the last offset that it saw."""

    user: Account
    task: str
    output: bytes = b""
    attempt: int = 0
    skipped: int = 0
    states: list[str] = field(default_factory=list)

    def watch(self, enough: Callable[[Watcher], bool]) -> None:
        """Until `enough`, or until the stream ends. Raises grpc.RpcError when it is cut off."""
        request = pb.WatchTaskRequest(
            task_id=self.task, output_offset=len(self.output), attempt_number=self.attempt
        )
        stream = self.user.stubs.tasks.WatchTask(request, metadata=self.user.metadata, timeout=60)
        for event in stream:
            if event.WhichOneof("event") == "state":
                self.states.append(event.state.state)
            else:
                assert event.output.offset == len(self.output)
                self.output += event.output.data
                assert event.output.next_offset == len(self.output)
                self.attempt, self.skipped = event.output.attempt_number, event.output.skipped_bytes
            if enough(self):
                stream.cancel()
                return


def test_a_watcher_of_a_killed_gateway_goes_on_where_it_was_and_misses_nothing(pool: TestPool) -> None:
    user = pool.register_user()
    task = user.submit(script(COUNTS))
    watcher = Watcher(user, task)
    watcher.watch(lambda w: len(w.output) > 200)
    seen = len(watcher.output)
    with pytest.raises(grpc.RpcError):  # noqa: PT012  the stream is open when the gateway dies
        killed: list[bool] = []

        def kill_once(w: Watcher) -> bool:
            if len(w.output) > seen + 100 and not killed:
                pool.gateway.kill()
                killed.append(True)
            return False

        watcher.watch(kill_once)
    pool.start_gateway()
    let_go(pool, pool.agents[0], task)
    watcher.watch(lambda _: False)
    lines = watcher.output.decode().splitlines()
    count = int(lines[-1].removeprefix("last "))
    assert lines[:-1] == [f"line {n}" for n in range(count)]
    assert (watcher.states[-1], watcher.attempt, watcher.skipped) == ("SUCCEEDED", 1, 0)
    assert user.logs(task).encode() == watcher.output
    assert ended_once(pool, task)


def test_tasks_that_end_while_the_gateway_is_away_are_told_later(pool: TestPool) -> None:
    user = pool.register_user()
    tasks = [user.submit(script(WAITS)) for _ in range(3)]
    for task in tasks:
        await_begun(pool, user, task)
    pool.gateway.kill()
    for task in tasks:
        let_go(pool, pool.agents[0], task)
    pool.start_gateway()
    for task in tasks:
        user.wait_for(task, "COMPLETED")
        assert ended_once(pool, task)
        assert [row.number for row in attempts_of(pool, task)] == [1]


def test_a_try_that_failed_is_followed_by_one_whoever_was_killed_between(pool: TestPool) -> None:
    """Before its end was told and again while it waits: nothing is lost, and nothing run or paid twice."""
    user = pool.register_user()
    task = user.submit(script(FAILS), retries=1, backoff_seconds=1)
    await_begun(pool, user, task)
    pool.dispatcher.kill()
    pool.gateway.kill()
    let_go(pool, pool.agents[0], task)
    pool.start_gateway()
    pool.wait(lambda: attempts_of(pool, task)[0].state == "finished", "the end of the first try is told")
    detail = user.detail(task)
    assert (detail.state, detail.tries_failed, detail.next_try_at > 0) == ("QUEUED", 1, True)
    pool.gateway.kill()
    pool.dispatcher.start()
    pool.start_gateway()
    pool.wait(lambda: len(attempts_of(pool, task)) == 2, "it is tried again")
    pool.wait(lambda: user.detail(task).state == "RUNNING", "the second try runs")
    let_go(pool, pool.agents[0], task, number=2)
    user.wait_for(task, "FAILED")
    assert [(row.state, row.exit_code) for row in attempts_of(pool, task)] == [("finished", 75)] * 2
    url = f"file:{pool.folder / 'users.db'}?mode=ro"
    query = "SELECT kind, count(*) FROM ledger_entries WHERE task_id = ? GROUP BY kind"
    with contextlib.closing(sqlite3.connect(url, uri=True, timeout=20)) as connection:
        kinds = dict(connection.execute(query, (task,)).fetchall())
    assert (kinds["hold"], kinds["payment"], kinds["release"]) == (2, 2, 1)
