"""Too many requests of one account, or from one address, are refused with when to try again; others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
import redis

from dispatcher.sweep.broker_connections import BrokerGuard
from gateway.admission.request_limit_sync import RequestSync
from gateway.admission.request_limits import CallKind, RequestLimits, kind_of
from gateway.auth.access import REQUIRED
from gateway.auth.tokens import CallerIdentity
from hivemind.sdk import NodePoolClient
from nodepool.domain.errors import RateLimitedError
from nodepool.protocol import nodepool_pb2 as pb
from nodepool.settings import Settings
from nodepool.stores.redis import broker_users
from tests.support.accounts import CALL_SECONDS, Account, Stubs, log_in
from tests.support.hostile import refused
from tests.support.inner_gateway import PASSWORD, FromElsewhere, InnerGateway
from tests.support.valkey import TestValkey

READS, WRONG, ENTRIES, NODES = 120, 4, 40, 3


@pytest.fixture(scope="module")
def gateway(valkey_server: TestValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InnerGateway]:
    valkey_server.emptied()
    made = InnerGateway(
        tmp_path_factory.mktemp("gateway"),
        valkey_server,
        reads_per_minute=READS,
        login_attempts_per_minute=WRONG,
        logins_per_minute_per_address=ENTRIES,
        login_lock_seconds=0,
        max_nodes_per_user=NODES,
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def elsewhere(gateway: InnerGateway) -> Iterator[Stubs]:
    way = FromElsewhere(gateway.port, "127.0.0.2")
    channel = grpc.insecure_channel(f"127.0.0.1:{way.port}")
    yield Stubs(channel)
    channel.close()
    way.close()


@pytest.fixture
def owner(gateway: InnerGateway, valkey: TestValkey) -> Account:
    # `valkey` is empty with each test, and with it what was counted of logins.
    return gateway.someone()


def _read(account: Account) -> pb.GetBalanceResponse:
    return account.stubs.users.GetBalance(pb.GetBalanceRequest(token=account.token), timeout=CALL_SECONDS)


def _exhaust(account: Account) -> grpc.Call:
    def many() -> None:
        for _ in range(10 * READS):
            _read(account)

    with pytest.raises(grpc.RpcError) as caught:
        many()
    told: grpc.Call = caught.value  # type: ignore[assignment]
    return told


def test_an_account_that_reads_too_much_is_told_when_to_try_again(
    gateway: InnerGateway, owner: Account
) -> None:
    kind = gateway.someone()
    told = _exhaust(owner)
    assert told.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{READS} a minute" in (told.details() or "")
    assert "try again in" in (told.details() or "")
    waits = dict(told.trailing_metadata() or ())["retry-after-ms"]
    assert 0 < int(waits) <= 60_000 / READS
    assert _read(kind).success, "others are answered"


def test_the_client_waits_as_it_is_told_and_goes_on(gateway: InnerGateway, owner: Account) -> None:
    _exhaust(owner)
    with NodePoolClient(f"127.0.0.1:{gateway.port}", token=owner.token) as pool:
        assert pool.balance().credit_score == 50


def test_gateways_keep_one_bound_together_and_each_its_own_without_redis(valkey: TestValkey) -> None:
    settings = Settings.model_validate({"reads_per_minute": 100, "redis_url": valkey.url})
    ada = CallerIdentity(1, "ada", "user", 0)
    client = redis.Redis.from_url(valkey.url)
    limits = [RequestLimits(settings, clock=lambda: 0.0) for _ in range(2)]
    shared = [RequestSync(client, it, clock=lambda: 30.0) for it in limits]
    for _ in range(60):
        limits[0].check_account("/nodepool.UserService/GetBalance", ada)
    limits[1].check_account("/nodepool.UserService/GetBalance", ada)
    for it in shared:
        it.sync()
    left = _until_refused(lambda: limits[1].check_account("/nodepool.UserService/GetBalance", ada))
    assert left == 100 - 60 - 1
    assert all(client.ttl(key) > 0 for key in client.scan_iter("rate:requests:*"))
    client.close()
    away = redis.Redis(port=1, socket_timeout=0.2)
    RequestSync(away, limits[0], clock=lambda: 30.0).sync()
    assert _until_refused(lambda: limits[0].check_account("/nodepool.UserService/GetBalance", ada)) == 40
    away.close()


def _until_refused(call: Callable[[], None]) -> int:
    done = 0

    def many() -> None:
        nonlocal done
        for _ in range(1000):
            call()
            done += 1

    with pytest.raises(RateLimitedError) as caught:
        many()
    assert caught.value.retry_after_seconds > 0
    return done


def test_every_call_has_a_kind_and_what_agents_do_all_the_time_has_its_own() -> None:
    assert {kind_of(method) for method in REQUIRED} == set(CallKind)
    assert kind_of("/nodepool.NodeManagerService/AppendOutput") is CallKind.NODE
    assert kind_of("/nodepool.UserService/Login") is CallKind.ENTRY
    assert kind_of("/nodepool.MasterNodeService/GetTaskLogs") is CallKind.READ


def test_who_shows_no_token_is_counted_by_his_address(gateway: InnerGateway, elsewhere: Stubs) -> None:
    def ask() -> None:
        for _ in range(10 * READS):
            gateway.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)

    code, words = refused(ask)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{READS} a minute" in words
    elsewhere.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)


# -- logins ------------------------------------------------------------------------------------------
def _guess(stubs: Stubs, username: str, password: str = "a wrong guess") -> pb.LoginResponse:
    return stubs.users.Login(pb.LoginRequest(username=username, password=password), timeout=CALL_SECONDS)


def test_guesses_from_elsewhere_lock_out_who_guesses_and_not_the_owner(
    gateway: InnerGateway, owner: Account, elsewhere: Stubs
) -> None:
    for number in range(WRONG):
        assert not _guess(elsewhere, owner.username, f"guess {number}").success
    for number in range(ENTRIES - WRONG - 1):
        code, _ = refused(lambda: _guess(elsewhere, owner.username, f"more {number}"))  # noqa: B023
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    for _ in range(2):
        assert _guess(gateway.stubs, owner.username, PASSWORD).success


def test_right_passwords_never_count_and_wrong_ones_do(gateway: InnerGateway, owner: Account) -> None:
    for _ in range(2 * WRONG):
        assert log_in(gateway.stubs, owner.username, PASSWORD)
    for number in range(WRONG):
        assert not _guess(gateway.stubs, owner.username, f"wrong {number}").success
    code, words = refused(lambda: _guess(gateway.stubs, owner.username))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "try again in" in words


# -- nodes -------------------------------------------------------------------------------------------
def _register(account: Account, name: str, **facts: int) -> pb.StatusResponse:
    request = pb.RegisterWorkerNodeRequest(
        **{
            "node_id": f"{account.username}/{name}",
            "hostname": "h",
            "cpu_cores": 4,
            "memory_gb": 4,
            "cpu_score": 4000,
            "kind": "agent",
            "max_tasks": 4,
            **facts,
        }
    )
    return account.stubs.nodes.RegisterWorkerNode(request, metadata=account.metadata, timeout=CALL_SECONDS)


@pytest.mark.parametrize(
    ("claim", "amount"), [("memory_gb", 65_536), ("cpu_cores", 3000), ("gpu_memory_gb", 50_000)]
)
def test_what_no_machine_has_is_refused(owner: Account, claim: str, amount: int) -> None:
    code, words = refused(lambda: _register(owner, "huge", **{claim: amount}))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{claim} {amount}" in words
    assert f"MAX_NODE_{claim.upper()}" in words


def test_a_node_counts_only_so_much_until_tasks_ended_well_on_it(
    gateway: InnerGateway, owner: Account
) -> None:
    _register(owner, "large", memory_gb=10_000, cpu_score=900_000, max_tasks=256)
    registry, settings = gateway.gateway.registry, gateway.settings
    view = next(iter(registry.views([f"{owner.username}/large"], 60)))
    assert view is not None
    assert view.capacity.memory_mb == settings.unproven_node_memory_gb * 1024
    assert view.capacity.cpu_score == settings.unproven_node_cpu_score * settings.cpu_overcommit
    assert view.capacity.tasks == settings.unproven_node_tasks


def test_an_account_has_no_more_nodes_than_it_may_and_its_own_come_back(owner: Account) -> None:
    for number in range(NODES):
        assert _register(owner, f"n{number}").success
    code, words = refused(lambda: _register(owner, "one-too-many"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "deregister" in words
    assert _register(owner, "n0").success
    gone = pb.DeregisterNodeRequest(node_id=f"{owner.username}/n1")
    owner.stubs.nodes.DeregisterNode(gone, metadata=owner.metadata, timeout=CALL_SECONDS)
    assert _register(owner, "another").success


def test_the_newest_connections_of_one_agent_beyond_its_bound_are_cut(valkey: TestValkey) -> None:
    rude, kind = (
        redis.Redis.from_url(broker_users.create(valkey.admin, name, base_url=valkey.url))
        for name in ("ada/rude", "bob/kind")
    )
    crowd = [rude.connection_pool.make_connection() for _ in range(80)]
    assert kind.ping()
    try:
        for connection in crowd:
            connection.connect()
        BrokerGuard(valkey.admin, most=8).look()
        users = [client["user"] for client in valkey.admin.client_list()]
        mine = [user for user in users if user.startswith("agent-")]
        assert sorted(mine.count(user) for user in set(mine)) == [1, 8]
        assert kind.ping()
        crowd[0].send_command("PING")
        assert crowd[0].read_response() == b"PONG", "the oldest go on"
    finally:
        for connection in crowd:
            connection.disconnect()
        rude.close()
        kind.close()
