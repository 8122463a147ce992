"""What an operator sees of a whole pool: its metrics, its health, and why nothing is placed."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nodepool.metrics.catalogue import MetricKind, Part, entries
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.environment import free_port
from tests.support.pool import PoolFactory, TestPool
from tests.support.scrapes import Scrape, scrape, scrape_text
from tests.support.stuck import PACKAGE
from tests.support.tasks import new_task_id, script

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GATEWAY_PORT, DISPATCHER_PORT = "GATEWAY_METRICS_PORT", "DISPATCHER_METRICS_PORT"
# Only after something happened that this pool sees nothing of.
_RARE = {
    "hivemind_placement_misses_total", "celery_task_failed_total", "celery_task_rejected_total",
    "hivemind_ledger_verified_timestamp_seconds", "hivemind_ledger_right", "hivemind_ledger_verified_entries",
    "hivemind_sample_failures_total", "hivemind_limits_hit_total", "hivemind_gateway_proxy_refusals_total",
    "hivemind_notifications_total",
}  # fmt: skip


# Of both parts, and here nothing happens in this one.
_OF_THE_OTHER = {
    Part.GATEWAY: set[str](),
    Part.DISPATCHER: {"hivemind_attempts_ended_total", "hivemind_tasks_ended_total"},
}


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    return pool_factory(
        agents=1, settings={name: str(free_port()) for name in (GATEWAY_PORT, DISPATCHER_PORT)}
    )


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


def of_gateway(pool: TestPool) -> Scrape:
    return scrape(int(pool.options.settings[GATEWAY_PORT]))


def of_dispatcher(pool: TestPool) -> Scrape:
    return scrape(int(pool.options.settings[DISPATCHER_PORT]))


def told_by_grpc(pool: TestPool, service: str) -> int:
    with grpc.insecure_channel(pool.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_SECONDS).status)


def health(pool: TestPool, user: Account) -> pb.HealthCheckResponse:
    return user.stubs.nodes.HealthCheck(pb.HealthCheckRequest(), timeout=CALL_SECONDS)


def test_a_task_is_seen_on_its_way(pool: TestPool, user: Account) -> None:
    before, gateway_before = of_dispatcher(pool), of_gateway(pool)
    task = user.submit(script("print('seen')"))
    waits = user.submit(script("print('waits')"), memory_gb=16_000)
    user.wait_for(task, "COMPLETED")
    pool.wait(
        lambda: of_dispatcher(pool).some(
            "hivemind_tasks_waiting", tier="normal", cause="too_small_memory_mb"
        ),
        "what the other one waits for is seen",
    )
    seen = of_dispatcher(pool)
    assert seen.of("hivemind_tasks", state="QUEUED") == 1
    assert seen.of("hivemind_tasks", state="SUCCEEDED") is not None
    assert seen.some("hivemind_oldest_wait_seconds", region="any", cause="too_small_memory_mb") > 0
    for name in ("hivemind_placements_total", "hivemind_task_wait_seconds_count"):
        assert seen.some(name, tier="normal") == before.some(name, tier="normal") + 1
    assert seen.some("hivemind_nodes", state="online") == 1
    assert seen.some("hivemind_nodes", state="offline") == 0
    assert seen.of("hivemind_memory_capacity_bytes") >= 1 << 30
    assert seen.of("hivemind_broker_memory_used_bytes") < seen.of("hivemind_broker_memory_limit_bytes")
    assert 0 < seen.of("hivemind_broker_clients") < seen.of("hivemind_broker_clients_limit")
    assert seen.of("celery_queue_length", queue_name="normal.any") == 0
    assert next(seen.labels_of("celery_worker_up"))["hostname"].startswith("dispatcher@")
    assert seen.some("celery_task_succeeded_total", name="dispatcher.place") >= 1
    gateway = of_gateway(pool)
    for name, labels, more in (
        ("hivemind_attempts_ended_total", {"outcome": "succeeded", "reason_class": "none"}, 1),
        ("hivemind_tasks_ended_total", {"state": "SUCCEEDED"}, 1),
        ("hivemind_tasks_accepted_total", {"tier": "normal"}, 2),
    ):
        assert gateway.some(name, **labels) == gateway_before.some(name, **labels) + more
    _every_metric_is_served(pool, of_gateway, Part.GATEWAY)
    _every_metric_is_served(pool, of_dispatcher, Part.DISPATCHER)
    user.stop(waits)


def test_calls_and_logins_are_counted_by_what_came_of_them(pool: TestPool, user: Account) -> None:
    before = of_gateway(pool)
    wrong = pb.LoginRequest(username=user.username, password="wrong")
    assert not user.stubs.users.Login(wrong, timeout=CALL_SECONDS).success
    with pytest.raises(grpc.RpcError):
        user.stubs.users.GetBalance(pb.GetBalanceRequest(), timeout=CALL_SECONDS)
    with grpc.insecure_channel(pool.address) as channel:
        for method in ('/nodepool.UserService/Forged"} 1', "/made.Up/Method"):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(method)(b"", timeout=CALL_SECONDS)
    after = of_gateway(pool)
    balance = "/nodepool.UserService/GetBalance"
    assert after.of("hivemind_gateway_logins_total", outcome="refused") == 1 + (
        before.of("hivemind_gateway_logins_total", outcome="refused") or 0
    )
    assert after.of("hivemind_gateway_rpcs_total", method=balance, code="UNAUTHENTICATED") == 1
    assert after.some("hivemind_gateway_rpcs_total", code="OK") > 0
    methods = {labels["method"] for labels in after.labels_of("hivemind_gateway_rpcs_total")}
    assert not [method for method in methods if "Forged" in method or "made" in method]


def test_a_region_that_a_stranger_made_up_makes_no_series(pool: TestPool, user: Account) -> None:
    for number in range(5):
        with pytest.raises(grpc.RpcError):
            user.submit(script("pass"), location=f'Atlantis {number}"}} 1')
    regions = {labels["region"] for labels in of_dispatcher(pool).labels_of("hivemind_tasks_waiting")}
    assert regions <= {"any", "asia"}
    assert "Atlantis" not in scrape_text(int(pool.options.settings[GATEWAY_PORT]))


def test_nobody_is_named(pool: TestPool, user: Account) -> None:
    for name in (GATEWAY_PORT, DISPATCHER_PORT):
        text = scrape_text(int(pool.options.settings[name]))
        for secret in (user.username, pool.owner.username, pool.agents[0].node_id, pool.valkey.password):
            assert secret not in text


def _every_metric_is_served(pool: TestPool, look: Callable[[TestPool], Scrape], part: Part) -> None:
    """Those of the catalogue, and no other."""
    wanted = {
        f"{entry.name}_count" if entry.kind is MetricKind.HISTOGRAM else entry.name
        for entry in entries()
        if part in entry.parts
    }
    expected = wanted - _RARE - _OF_THE_OTHER[part]
    # Some are looked up now and then, and the first time may have been before there was a sweep.
    pool.wait(lambda: expected <= look(pool).names(), f"every metric of the {part} is served")
    shown = look(pool).names()
    ours = {name for name in shown if name.startswith(("hivemind_", "celery_"))}
    extra = {name for name in ours - wanted if not name.endswith(("_created", "_bucket", "_sum"))}
    assert extra == set()


def test_a_stopped_dispatcher_is_seen_everywhere_and_back_by_itself(pool: TestPool, user: Account) -> None:
    pool.wait(lambda: told_by_grpc(pool, "") == SERVING, "all is well")
    assert told_by_grpc(pool, "gateway") == SERVING
    pool.dispatcher.freeze()
    pool.wait(lambda: not health(pool, user).healthy, "the dispatcher is missed")
    try:
        assert "no dispatcher has worked for" in health(pool, user).message
        pool.wait(lambda: told_by_grpc(pool, "") == NOT_SERVING, "grpc.health.v1 says so")
        assert told_by_grpc(pool, "nodepool.MasterNodeService") == NOT_SERVING
        assert told_by_grpc(pool, "gateway") == SERVING, "a balancer goes on sending"
        assert of_gateway(pool).of("hivemind_healthy", part="dispatcher") == 0
        assert of_gateway(pool).of("hivemind_sweep_age_seconds") > 3
        task = user.submit(script("print('later')"))
        told = user.stubs.tasks.ExplainTask(
            pb.ExplainTaskRequest(task_id=task), metadata=user.metadata, timeout=CALL_SECONDS
        )
        assert told.message.startswith("waiting: no dispatcher is working")
        assert told.estimated_wait_seconds < 0
        assert "no dispatcher is working, so nothing is placed" in told.estimate_basis
        assert not told.places_now
        dry = pb.UploadTaskRequest(task_id=new_task_id(), task_zip=PACKAGE, memory_gb=1)
        told = user.stubs.tasks.ExplainTask(
            pb.ExplainTaskRequest(task=dry), metadata=user.metadata, timeout=CALL_SECONDS
        )
        assert not told.places_now
    finally:
        pool.dispatcher.thaw()
    pool.wait(lambda: health(pool, user).healthy, "it is well again")
    pool.wait(lambda: told_by_grpc(pool, "") == SERVING, "and grpc.health.v1 says so")
    user.wait_for(task, "COMPLETED")


def test_a_broker_that_is_away_or_full_is_no_healthy_pool(pool: TestPool, user: Account) -> None:
    pool.valkey.freeze()
    pool.wait(lambda: "broker" in health(pool, user).message, "the broker is missed")
    try:
        pool.wait(lambda: told_by_grpc(pool, "gateway") == NOT_SERVING, "grpc.health.v1 says so")
        assert of_gateway(pool).of("hivemind_healthy", part="broker") == 0
        _scrape_does_not_hang(of_dispatcher, pool)
    finally:
        pool.valkey.thaw()
    pool.wait(lambda: health(pool, user).healthy, "it is well again")
    limit = pool.valkey.admin.config_get("maxmemory")["maxmemory"]
    pool.valkey.admin.config_set("maxmemory", "1mb")
    pool.wait(lambda: "broker" in health(pool, user).message, "a full broker is missed")
    pool.valkey.admin.config_set("maxmemory", limit)
    pool.wait(lambda: health(pool, user).healthy, "it is well again")


def _scrape_does_not_hang(scraped: Callable[[TestPool], Scrape], pool: TestPool) -> None:
    """It comes within the patience of its reader, and says how old what it shows is."""
    seen = scraped(pool)
    assert seen.of("hivemind_sample_age_seconds", source="broker") is not None
    assert seen.of("hivemind_sample_age_seconds", source="tasks") is not None
