"""The broker's master dies under load, and a replica takes over: nothing is lost, and agents get in."""

from __future__ import annotations

from nodepool.domain import ids
from tests.support.faults import attempts_of
from tests.support.pool import PoolFactory
from tests.support.sentinel import SentinelBroker
from tests.support.tasks import script

LONG = "import time; print('begun', flush=True); time.sleep(15); print('done')"
SHORT = "print('done')"


def test_a_failover_under_load_loses_nothing_and_ends_no_run(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=2, broker=SentinelBroker)
    broker = pool.valkey
    assert isinstance(broker, SentinelBroker)
    user = pool.register_user()
    long = [user.submit(script(LONG)) for _ in range(2)]
    pool.wait(lambda: all(user.poll(task).status == "RUNNING" for task in long), "the long ones run")
    short = [user.submit(script(SHORT)) for _ in range(8)]
    pool.wait(lambda: any(user.poll(task).status == "COMPLETED" for task in short), "one has ended")
    before = broker.master
    # A last enrolment that a replica may or may not have heard of, and all that is under way.
    broker.kill()
    short += [user.submit(script(SHORT)) for _ in range(8)]
    pool.wait(lambda: broker.master is not before, "the sentinels have another master")
    for task in short:
        user.wait_for(task, "COMPLETED", timeout=90)
    for task in long:
        user.wait_for(task, "COMPLETED", timeout=90)
        (only,) = attempts_of(pool, task)
        assert (only.number, only.state) == (1, "finished")
    assert not [row for task in short for row in attempts_of(pool, task) if row.state == "lost"]
    assert all(agent.is_running for agent in pool.agents)
    users = {str(name) for name in broker.admin.acl_users()}
    assert {ids.broker_user(agent.node_id) for agent in pool.agents} <= users
