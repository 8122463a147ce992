"""A whole pool: what a task asked for and does not use lets others in, and comes back when it is used."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.faults import AttemptRow, attempts_of, folder_of
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script

# Holds some memory from the start, more when the test lays down a file, and ends by another.
HOLDS = """
import os, time
held = [b'x' * ({first} << 20)]
print('holds', flush=True)
while not os.path.exists('grow') and not os.path.exists('end'):
    time.sleep(0.05)
if os.path.exists('grow'):
    held.append(b'x' * ({more} << 20))
    print('grown', flush=True)
while not os.path.exists('end'):
    time.sleep(0.05)
"""
CAPACITY_MB = 512
CLAIM_MB = 220


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    """One node with room for two tasks, and nobody may lose an attempt."""
    return pool_factory(
        agents=1,
        agent_arguments=("--memory-gb", "1"),
        settings={
            "RECLAIM_AFTER_SECONDS": "1",
            "MEMORY_OVERCOMMIT": "0.5",
            "DEFAULT_TASK_MEMORY_MB": str(CLAIM_MB),
            "MAX_ATTEMPTS": "1",
        },
    )


def holding(user: Account, first: int, more: int = 0) -> str:
    return user.submit(script(HOLDS.format(first=first, more=more)), cpu_score=1)


def tell(pool: TestPool, task: str, word: str, number: int = 1) -> None:
    (agent,) = pool.agents
    (folder_of(pool, agent, task, number) / word).touch(mode=0o644)


def node(pool: TestPool) -> pb.WorkerNodeInfo:
    (info,) = pool.owner.node_list()
    return info


def await_output(pool: TestPool, user: Account, task: str, word: str) -> None:
    pool.wait(lambda: word in user.logs(task), f"{task} {word}")


def distrust(pool: TestPool, user: Account) -> None:
    with contextlib.closing(sqlite3.connect(pool.folder / "users.db", timeout=60)) as connection, connection:
        connection.execute("UPDATE users SET credit_score = 10 WHERE username = ?", (user.username,))


def test_unused_memory_lets_a_task_in_and_growth_evicts_the_least_trusted(pool: TestPool) -> None:
    (agent,) = pool.agents
    user, stranger = pool.register_user(), pool.register_user()
    distrust(pool, stranger)

    grows = holding(user, first=1, more=200)
    strange = holding(stranger, first=100)
    for owner, task in ((user, grows), (stranger, strange)):
        await_output(pool, owner, task, "holds")
    # Two claims are all that fits; what the two do not use makes room for a third.
    young = holding(user, first=200)
    await_output(pool, user, young, "holds")
    info = node(pool)
    assert info.running_tasks == 3
    assert info.capacity_memory_mb == CAPACITY_MB
    assert info.reserved_memory_mb <= CAPACITY_MB < 3 * CLAIM_MB
    pool.wait(lambda: node(pool).used_memory_mb >= 300, "the node list tells what is used")

    tell(pool, grows, "grow")
    await_output(pool, user, grows, "grown")
    # Not the youngest, whose owner is trusted more.
    pool.wait(lambda: stranger.detail(strange).state == "QUEUED", "the stranger's task is evicted")
    pool.wait(lambda: not folder_of(pool, agent, strange).exists(), "its run has ended")
    assert [user.detail(task).state for task in (grows, young)] == ["RUNNING", "RUNNING"]
    (record,) = stranger.detail(strange).attempts
    assert (record.state, record.reason) == ("lost", f"evicted: node {agent.node_id} ran short of memory")
    assert node(pool).reserved_memory_mb <= CAPACITY_MB
    assert node(pool).on_probation is False

    # It runs when there is room again, and was charged with nothing: one lost attempt would have failed it.
    for task in (grows, young):
        tell(pool, task, "end")
        user.wait_for(task, "COMPLETED")
    pool.wait(lambda: folder_of(pool, agent, strange, 2).exists(), "it has begun again")
    await_output(pool, stranger, strange, "holds")
    tell(pool, strange, "end", number=2)
    stranger.wait_for(strange, "COMPLETED")
    assert attempts_of(pool, strange) == [
        AttemptRow(1, agent.node_id, "lost", None),
        AttemptRow(2, agent.node_id, "finished", 0),
    ]
    pool.wait(lambda: node(pool).reserved_memory_mb == 0, "nothing is reserved any more")
