"""A whole pool on a broker with little memory: many tasks that print much, and a broker that others fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from nodepool.stores.redis import keys
from tests.support.accounts import Account
from tests.support.faults import folder_of
from tests.support.pool import SETTINGS, PoolFactory, TestPool
from tests.support.tasks import script, unpacked
from tests.support.valkey import TestValkey
from tests.support.waiting import wait_until

NODE_LATE_SECONDS = float(SETTINGS["NODE_LATE_SECONDS"])
BROKER_BYTES = 8 << 20
PRINTED_BYTES = 1_000_000
# Together more than twice what the broker holds.
PRINTS = 18
LOUD = f"print('begun', flush=True)\nprint('x' * {PRINTED_BYTES}, flush=True)\nprint('the last line')\n"


@pytest.fixture(scope="module")
def small(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1, broker=partial(TestValkey, max_memory_bytes=BROKER_BYTES))


@pytest.fixture(scope="module")
def user(small: TestPool) -> Account:
    return small.register_user()


@contextmanager
def filled(small: TestPool) -> Iterator[None]:
    """Something else has filled the broker: nothing that needs memory is taken."""
    admin = small.valkey.admin

    def fill() -> None:
        admin.config_set("maxmemory", 1 << 20)

    fill()
    try:
        yield
    finally:
        admin.config_set("maxmemory", BROKER_BYTES)


@pytest.fixture
def full(small: TestPool) -> Iterator[None]:
    with filled(small):
        yield


WAITING = script(
    """
import os, time
print('begun', flush=True)
while not os.path.exists('end'):
    time.sleep(0.05)
    print('still here', flush=True)
print('done')
"""
)


def test_tasks_that_print_more_than_the_broker_holds_all_succeed(small: TestPool, user: Account) -> None:
    admin = small.valkey.admin
    tasks = [user.submit(script(LOUD)) for _ in range(PRINTS)]
    most = outputs = 0
    for task in tasks:
        answer = user.wait_for_end(task, timeout=120)
        most = max(most, int(admin.info("memory")["used_memory"]))
        outputs = max(outputs, int(admin.get(keys.OUTPUT_TOTAL) or 0))
        assert answer.status == "COMPLETED"
        assert answer.detail.attempt_number == 1
    assert most < BROKER_BYTES
    assert 0 < outputs <= BROKER_BYTES // 4
    # Whoever asks afterwards reads the stored log, which has all of it.
    for task in (tasks[0], tasks[-1]):
        assert len(user.logs(task)) >= PRINTED_BYTES
        assert user.logs(task).endswith("the last line\n")
        assert len(unpacked(user.result(task))["task_logs.txt"]) >= PRINTED_BYTES


def test_live_windows_end_with_their_attempts(small: TestPool, user: Account) -> None:
    task = user.submit(script("print('said')"))
    user.wait_for_end(task)
    window = keys.output(small.attempt(task))
    assert 0 < small.valkey.admin.ttl(window) <= 60
    wait_until(lambda: not small.valkey.admin.exists(window), "the window is gone", 60)
    assert user.logs(task) == "said\n"


def test_a_full_broker_stops_nothing(small: TestPool, user: Account, full: None) -> None:
    admin, agent = small.valkey.admin, small.agents[0]
    task = user.submit(WAITING)
    small.wait(lambda: user.poll(task).status == "RUNNING", "a task begins on a full broker")
    agent.wait_for_line("the broker takes no reports just now")
    # Longer than a node may be silent, and than a run may be missing in its node's report.
    begun = admin.time()[0]
    small.wait(lambda: admin.time()[0] - begun > 2 * NODE_LATE_SECONDS + 2, "the run could have been lost")
    assert [node.status for node in user.node_list()] == ["ONLINE"]
    (folder_of(small, agent, task) / "end").touch(mode=0o644)
    answer = user.wait_for_end(task)
    assert (answer.status, answer.detail.attempt_number) == ("COMPLETED", 1)
    assert unpacked(user.result(task))["task_logs.txt"].endswith(b"done\n")
    assert user.logs(task).endswith("done\n")


def test_it_goes_on_by_itself_when_there_is_room_again(small: TestPool, user: Account) -> None:
    agent = small.agents[0]
    with filled(small):
        agent.wait_for_line("the broker takes no reports just now")
    agent.wait_for_line("the broker takes reports again")
    task = user.submit(script("print('as ever')"))
    assert user.wait_for_end(task).status == "COMPLETED"
    assert user.logs(task) == "as ever\n"
