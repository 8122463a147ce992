"""The broker dies under load and comes back: hints are lost, tasks are not."""

from __future__ import annotations

from tests.support.faults import attempts_of
from tests.support.pool import PoolFactory
from tests.support.tasks import script

HALF_A_SECOND = "import time; print('begun', flush=True); time.sleep(0.5); print('done')"


def test_all_tasks_end_when_the_broker_is_killed_and_restarted_under_load(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=2)
    user = pool.register_user()
    tasks = [user.submit(script(HALF_A_SECOND)) for _ in range(16)]
    pool.wait(lambda: any(user.poll(task).status == "COMPLETED" for task in tasks), "one has ended")
    pool.valkey.kill()
    # Submitting needs no broker.
    tasks += [user.submit(script(HALF_A_SECOND)) for _ in range(4)]
    pool.valkey.restart()
    for task in tasks:
        user.wait_for(task, "COMPLETED", timeout=90)
        finished = [row for row in attempts_of(pool, task) if row.state == "finished"]
        assert [row.exit_code for row in finished] == [0]
    assert all(agent.is_running for agent in pool.agents)
    # That Redis was away is a warning, told in a line.
    assert "Traceback" not in pool.gateway.log()
    assert "UnavailableError" not in pool.dispatcher.log()


def test_state_can_be_asked_for_while_the_broker_is_away(pool_factory: PoolFactory) -> None:
    pool = pool_factory(agents=0)
    user = pool.register_user()
    pool.valkey.kill()
    task = user.submit(script(HALF_A_SECOND))
    assert user.poll(task).status == "PENDING"
    assert user.stop(task).success
    user.wait_for(task, "STOPPED")
    pool.valkey.restart()
