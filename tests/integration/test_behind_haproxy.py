"""Two gateways behind HAProxy as deploy/haproxy has it: whose call it is, and what limits count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import grpc
import pytest
from sqlalchemy import create_engine, select

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.tables import nodes
from tests.support.accounts import CALL_SECONDS, register
from tests.support.balanced import BalancedGateways, Way
from tests.support.databases import sqlite_file
from tests.support.hostile import refused
from tests.support.scrapes import scrape
from tests.support.tasks import package
from tests.support.valkey import TestValkey

TRIES = 4
GUESSER, OTHER, OWNER = "127.0.0.3", "127.0.0.4", "127.0.0.5"


@pytest.fixture(scope="module", params=[Way.TCP_TLS, Way.HTTP2_TLS])
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BalancedGateways]:
    folder = tmp_path_factory.mktemp("balanced")
    valkey = TestValkey(folder / "valkey")
    valkey.start()
    settings = {"LOGIN_ATTEMPTS_PER_MINUTE": str(TRIES), "NEWCOMER_BALANCE_CPT": "1000"}
    with ExitStack() as stack:
        stack.callback(valkey.close)
        made = BalancedGateways(folder, valkey, request.param, **settings)
        stack.callback(made.close)
        for number in range(2):
            made.start(number)
        yield made


def _guess(pool: BalancedGateways, address: str, number: int) -> pb.LoginResponse:
    """A wrong password on a new line, with every lie that a client can tell of where it comes from."""
    lies = (
        ("x-forwarded-for", f"198.51.100.{number}"),
        ("x-forwarded-for", f"198.51.100.{number}, 127.0.0.1"),
        ("forwarded", f"for=198.51.100.{number}"),
    )
    request = pb.LoginRequest(username=f"nobody-{address}-{number}", password="not theirs")
    with pool.client(address) as stubs:
        return stubs.users.Login(request, metadata=lies, timeout=CALL_SECONDS)


def _logins(pool: BalancedGateways, number: int) -> float:
    port = int(pool.gateways[number].env["GATEWAY_METRICS_PORT"])
    return scrape(port).some("hivemind_gateway_logins_total")


def test_a_limit_counts_the_clients_address_over_both_gateways(pool: BalancedGateways) -> None:
    for number in range(TRIES):
        assert "wrong username or password" in _guess(pool, GUESSER, number).message
    for number in range(TRIES, TRIES + 4):
        code, words = refused(partial(_guess, pool, GUESSER, number))
        assert (code, words[:27]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many attempts to log in")
    assert "wrong username or password" in _guess(pool, OTHER, 0).message, "another client is not concerned"
    assert all(_logins(pool, number) > 0 for number in range(2)), "both gateways had some of it"


def test_a_node_is_called_where_it_registered_from_and_not_at_the_balancer(pool: BalancedGateways) -> None:
    with pool.client(OWNER) as stubs:
        owner = register(stubs, "owner", "a good password")
        node_id = "owner/node"
        node = pb.RegisterWorkerNodeRequest(
            node_id=node_id, hostname="host", cpu_cores=4, memory_gb=4, cpu_score=1000, kind="agent"
        )
        stubs.nodes.RegisterWorkerNode(node, metadata=owner.metadata, timeout=CALL_SECONDS)
    engine = create_engine(f"sqlite:///{sqlite_file(pool.gateways[0].home / 'users.db')}")
    with engine.connect() as connection:
        query = select(nodes.c.peer_address).where(nodes.c.id == node_id)
        assert connection.execute(query).scalar_one() == OWNER
    engine.dispose()


def test_large_packages_get_through(pool: BalancedGateways) -> None:
    with pool.client() as stubs:
        sender = register(stubs, "sender", "a good password")
        for _ in range(2):
            data = package({"main.py": b"print(1)", "data": os.urandom(6 << 20)})
            assert sender.poll(sender.submit(data)).status == "PENDING"
