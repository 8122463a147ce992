"""What Flower's own API says of attempts: how each ended by SQL, where, and nothing of its owner's."""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any
from urllib.parse import quote

import pytest

from nodepool.messaging import names
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import Account
from tests.support.pool import FLOWER_LOGIN, PoolFactory, TestPool
from tests.support.secret_runs import KEEPS_A_SECRET, KEPT, keeps_it
from tests.support.tasks import script

OUTPUT = "a-word-that-only-the-program-says"
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)"


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    pool = pool_factory(agents=1, flower=True, settings={"NODE_LATE_SECONDS": "4", "LEASE_SECONDS": "3"})
    pool.wait(lambda: f"agent@{pool.agents[0].node_id}" in workers(pool), "Flower shows the agent")
    return pool


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


def page(pool: TestPool, path: str) -> str:
    login = base64.b64encode(":".join(FLOWER_LOGIN).encode()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{pool.flower_port}{path}", headers={"Authorization": f"Basic {login}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return "{}"  # it is not there yet


def workers(pool: TestPool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page(pool, "/api/workers?status=1"))
    return found


def shown(pool: TestPool, task: str, state: str) -> dict[str, Any]:
    """The message that brought the task's first attempt to its node, once it is in that state."""
    message = names.message_id(names.EXECUTE, pool.attempt(task))

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(page(pool, f"/api/task/info/{message}") or "{}")
        return found if found.get("state") == state else None

    pool.wait(look, f"Flower shows {task} as {state}")
    found = look()
    assert found is not None
    return found


def test_what_failed_is_a_failure_and_what_succeeded_is_none(pool: TestPool, user: Account) -> None:
    ends = (
        ("print('fine')", "SUCCESS", "succeeded (exit code 0)"),
        (f"print({OUTPUT!r}); raise SystemExit(3)", "FAILURE", "failed (exit code 3"),
        (f"raise ValueError({OUTPUT!r})", "FAILURE", "failed (exit code 1"),
    )
    for source, state, result in ends:
        task = user.submit(script(source))
        user.wait_for_end(task)
        found = shown(pool, task, state)
        node = pool.agents[0].node_id
        assert found["args"] == f"task={task!r}, attempt={pool.attempt(task)!r}, node={node!r}"
        assert found["result"].startswith(result)
        assert found["worker"] == f"agent@{node}"
        assert OUTPUT not in json.dumps(found)
    # The agent's own log has no word of a failure: for Celery the message is done.
    log = pool.agents[0].log()
    assert "Traceback" not in log
    assert "ended and is built again" not in log
    for path in ("/tasks", "/api/tasks?limit=1000"):
        assert OUTPUT not in page(pool, path)


def test_what_was_stopped_is_revoked(pool: TestPool, user: Account) -> None:
    task = user.submit(script(SLEEPS))
    pool.wait(lambda: "up" in user.logs(task), "it runs")
    shown(pool, task, "STARTED")
    user.stop(task)
    user.wait_for_end(task)
    assert shown(pool, task, "REVOKED")["result"].startswith("stopped")


def test_what_is_lost_is_a_failure(pool: TestPool, user: Account) -> None:
    task = user.submit(script(SLEEPS))
    pool.wait(lambda: "up" in user.logs(task), "it runs")
    shown(pool, task, "STARTED")
    pool.agents[0].freeze()
    try:
        assert "lost" in shown(pool, task, "FAILURE")["exception"]
    finally:
        pool.agents[0].thaw()
    user.stop(task)
    user.wait_for_end(task)
    # What the node says of it afterwards changes nothing.
    assert "lost" in shown(pool, task, "FAILURE")["exception"]


def test_a_node_that_left_is_gone_at_once(pool: TestPool) -> None:
    agent = pool.add_agent("leaves")
    name = f"agent@{agent.node_id}"
    pool.wait(lambda: name in workers(pool), "Flower shows it")
    agent.stop()
    # Well before what is not registered any more is forgotten anyway.
    pool.wait(lambda: name not in workers(pool), "Flower does not show it any more", 30)
    assert name not in page(pool, "/api/workers")
    assert name not in page(pool, "/workers")
    assert quote(name, safe="") not in page(pool, "/workers")


def test_a_secret_is_found_nowhere_but_in_the_run_that_is_given_it(pool: TestPool) -> None:
    user = pool.register_user()
    secret = pb.SetSecretRequest(name="TOKEN", value=KEPT)
    user.stubs.users.SetSecret(secret, metadata=user.metadata, timeout=20)
    careful = user.submit(script(KEEPS_A_SECRET), secrets=["TOKEN"])
    pool.wait(lambda: user.detail(careful).reason, "it is told why it waits")
    assert "1 of low trust: its owner could read the secrets of the task" in user.detail(careful).reason
    told = user.stubs.tasks.ExplainTask(
        pb.ExplainTaskRequest(task_id=careful), metadata=user.metadata, timeout=20
    )
    assert [(one.field, one.nodes) for one in told.suggestions] == [("secrets_on_low_trust", 1)]
    user.stop(careful)
    keeps_it(pool, user, user.submit(script(KEEPS_A_SECRET), secrets=["TOKEN"], secrets_on_low_trust=True))
