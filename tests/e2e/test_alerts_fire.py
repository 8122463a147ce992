"""The alerts that matter most: what they are about is made to happen in a pool that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodepool.stores.sql import pool_records
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.pool_records import LedgerVerification
from tests.support.environment import free_port
from tests.support.pool import PoolFactory, TestPool
from tests.support.prometheus import TestPrometheus


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    ports = {name: str(free_port()) for name in ("GATEWAY_METRICS_PORT", "DISPATCHER_METRICS_PORT")}
    return pool_factory(agents=1, settings=ports)


@pytest.fixture(scope="module")
def prometheus(pool: TestPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestPrometheus]:
    settings = pool.options.settings
    folder: Path = tmp_path_factory.mktemp("prometheus") / "server"
    server = TestPrometheus(
        folder, int(settings["GATEWAY_METRICS_PORT"]), int(settings["DISPATCHER_METRICS_PORT"])
    )
    server.start()
    pool.wait(lambda: not server.firing(), "all is well")
    yield server
    server.stop()


def keep(pool: TestPool, *, right: bool, at: float) -> None:
    database = Database(pool.database_url)
    try:
        database.write(
            lambda c: pool_records.keep_verification(c, LedgerVerification(at, is_right=right, entries=1))
        )
    finally:
        database.close()


def test_a_dispatcher_that_hangs(pool: TestPool, prometheus: TestPrometheus) -> None:
    pool.dispatcher.freeze()
    pool.wait(
        lambda: {"HivemindUnhealthy", "HivemindPartDown"} <= prometheus.firing(), "somebody is woken", 120
    )
    pool.dispatcher.thaw()
    pool.wait(lambda: not prometheus.firing(), "it is over", 120)


def test_a_broker_that_fills_up(pool: TestPool, prometheus: TestPrometheus) -> None:
    admin = pool.valkey.admin
    limit = admin.config_get("maxmemory")["maxmemory"]
    admin.config_set("maxmemory", int(admin.info()["used_memory"] * 1.1))
    pool.wait(lambda: "HivemindBrokerMemory" in prometheus.firing(), "somebody is woken", 120)
    admin.config_set("maxmemory", limit)
    pool.wait(lambda: not prometheus.firing(), "it is over", 120)


def test_a_ledger_that_is_wrong_and_one_that_nobody_looks_at(
    pool: TestPool, prometheus: TestPrometheus
) -> None:
    keep(pool, right=False, at=1.0)
    wanted = {"HivemindLedgerWrong", "HivemindLedgerNotVerified"}
    pool.wait(lambda: wanted <= prometheus.firing(), "somebody is woken", 120)
    keep(pool, right=True, at=4e9)
    pool.wait(lambda: not prometheus.firing(), "it is over", 120)


def test_a_pool_without_a_node(pool: TestPool, prometheus: TestPrometheus) -> None:
    (agent,) = pool.agents
    agent.freeze()
    pool.wait(lambda: "HivemindNoNodeOnline" in prometheus.firing(), "somebody is woken", 120)
    agent.thaw()
    pool.wait(lambda: not prometheus.firing(), "it is over", 120)
