"""A pool whose every part reaches the broker over TLS, with an authority that no system knows."""

from __future__ import annotations

import base64
import json
import urllib.request

import pytest

from tests.support.haproxy import TlsValkey
from tests.support.pool import FLOWER_LOGIN, PoolFactory, TestPool
from tests.support.tasks import script


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(agents=1, flower=True, broker=TlsValkey)


def test_an_agent_learns_the_authority_when_it_enrols_and_runs_tasks(pool: TestPool) -> None:
    user = pool.register_user()
    task = user.submit(script("print('over TLS')"))
    user.wait_for(task, "COMPLETED")
    # Plain text to what is behind the door is HAProxy's alone.
    users = {client["addr"].rpartition(":")[0] for client in pool.valkey.admin.client_list()}
    assert users == {"127.0.0.1"}
    assert "ssl_cert_reqs" not in pool.dispatcher.log()


def test_flower_shows_the_agent_and_the_queues(pool: TestPool) -> None:
    login = base64.b64encode(":".join(FLOWER_LOGIN).encode()).decode()

    def page(path: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{pool.flower_port}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    name = f"agent@{pool.agents[0].node_id}"
    pool.wait(lambda: name in json.loads(page("/api/workers")), "Flower shows the agent")
    pool.wait(lambda: "push" in page("/broker"), "Flower has asked for the queues")
