"""Every event of a whole pool, as its gateway and its dispatcher log it: once each, with what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from nodepool.events.catalogue import EVENTS
from nodepool.events.field_words import FIELD_WORDS
from nodepool.protocol import nodepool_pb2 as pb
from tests.support.accounts import CALL_SECONDS, Account, log_in
from tests.support.log_lines import events_in
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import new_task_id, script

ADMIN = ("the-operator", "a long enough password")
SECRET_OUTPUT = "a-word-that-only-the-program-says"
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)"
# What every line has.
_OF_EVERY_LINE = {"event", "level", "timestamp", "action", "request"}


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    settings = {
        "LOG_JSON": "true",
        "ADMIN_USERNAME": ADMIN[0],
        "ADMIN_PASSWORD": ADMIN[1],
        "NODE_LATE_SECONDS": "4",
        "LEASE_SECONDS": "3",
        "CHANGES_PER_MINUTE": "60",
    }
    return pool_factory(agents=1, settings=settings)


@pytest.fixture(scope="module")
def user(pool: TestPool) -> Account:
    return pool.register_user()


def told(pool: TestPool, *actions: str, **fields: Any) -> list[dict[str, Any]]:
    """The lines of both processes that have these fields."""
    found = events_in(pool.gateway.log() + pool.dispatcher.log(), *actions)
    return [it for it in found if all(it.get(name) == value for name, value in fields.items())]


def one(pool: TestPool, action: str, **fields: Any) -> dict[str, Any]:
    pool.wait(lambda: told(pool, action, **fields), f"{action} is told of {fields}")
    (line,) = told(pool, action, **fields)
    return line


def drain(pool: TestPool, node_id: str, *, draining: bool) -> None:
    request = pb.SetNodeDrainingRequest(node_id=node_id, draining=draining)
    owner = pool.owner
    owner.stubs.nodes.SetNodeDraining(request, metadata=owner.metadata, timeout=CALL_SECONDS)


def test_a_task_is_accepted_placed_and_ended(pool: TestPool, user: Account) -> None:
    program = f"sum(range(3_000_000))\nprint({SECRET_OUTPUT!r})"
    needs = {"location": "asia"}
    task = user.submit(script(program), **needs)
    again = user.submit(script(program), task_id=task, **needs)
    assert again == task
    user.wait_for(task, "COMPLETED")
    words = ("accepted", "placed", "ended")
    accepted, placed, ended = (one(pool, f"task.{word}", task=task) for word in words)
    node = pool.agents[0].node_id
    assert (accepted["user"], accepted["tier"], accepted["region"]) == (user.username, "normal", "asia")
    assert (placed["node"], placed["number"], placed["kind"]) == (node, 1, "user")
    assert placed["attempt"] == ended["attempt"] == pool.attempt(task)
    assert (ended["outcome"], ended["state"], ended["reason_class"]) == ("succeeded", "SUCCEEDED", "")
    assert (ended["node"], ended["exit_code"], ended["region"]) == (node, 0, "asia")
    assert 0 < ended["cpu_seconds"] < 60
    assert ended["peak_memory_bytes"] > 1 << 20
    assert 0 < ended["run_seconds"] < 60
    # A begun minute is paid, by whom it was asked for.
    assert ended["cpt"] == accepted["price_per_minute"] > 0
    assert {accepted["owner_id"], placed["owner_id"], ended["owner_id"]} == {ended["owner_id"]}
    assert not told(pool, "attempt.ended", task=task)


def test_a_task_that_fails_says_whose_doing_it_was(pool: TestPool, user: Account) -> None:
    task = user.submit(script("raise SystemExit(3)"))
    user.wait_for_end(task)
    ended = one(pool, "task.ended", task=task)
    assert (ended["state"], ended["outcome"], ended["exit_code"]) == ("FAILED", "failed", 3)
    assert ended["reason_class"] == "task"


def test_a_task_that_waits_ends_with_its_stop(pool: TestPool, user: Account) -> None:
    task = user.submit(script("pass"), memory_gb=16_000)
    user.stop(task)
    user.stop(task)
    ended = one(pool, "task.ended", task=task)
    assert (ended["state"], ended["attempt"], ended["outcome"], ended["cpt"]) == ("STOPPED", "", "", 0)


def test_a_task_that_runs_ends_with_its_stop(pool: TestPool, user: Account) -> None:
    task = user.submit(script(SLEEPS))
    pool.wait(lambda: "up" in user.logs(task), "it runs")
    user.stop(task)
    user.wait_for_end(task)
    ended = one(pool, "task.ended", task=task)
    assert (ended["state"], ended["outcome"]) == ("STOPPED", "stopped")
    one(pool, "task.stop_asked", task=task)
    user.stubs.tasks.DeleteTask(
        pb.DeleteTaskRequest(task_id=task), metadata=user.metadata, timeout=CALL_SECONDS
    )
    one(pool, "task.deleted", task=task)


def test_a_node_joins_is_drained_and_leaves(pool: TestPool) -> None:
    agent = pool.add_agent("leaves")
    joined = one(pool, "node.joined", node=agent.node_id)
    assert (joined["kind"], joined["region"], joined["address"]) == ("agent", "asia", "127.0.0.1")
    for draining in (True, True, False, False):
        drain(pool, agent.node_id, draining=draining)
    assert one(pool, "node.drained", node=agent.node_id)["attempts"] == 0
    one(pool, "node.undrained", node=agent.node_id)
    agent.stop()
    assert one(pool, "node.left", node=agent.node_id)["cause"] == "signed_off"
    assert not told(pool, "node.late", node=agent.node_id)


def test_a_node_is_late_lost_and_back(pool: TestPool, user: Account) -> None:
    agent = pool.agents[0]
    task = user.submit(script(SLEEPS))
    pool.wait(lambda: "up" in user.logs(task), "it runs")
    agent.freeze()
    try:
        late = one(pool, "node.late", node=agent.node_id)
        lost = one(pool, "node.lost", node=agent.node_id)
        assert (late["attempts"], lost["attempts"], late["level"]) == (1, 1, "warning")
        attempt = one(pool, "attempt.ended", task=task)
        assert (attempt["outcome"], attempt["state"], attempt["reason_class"]) == ("lost", "QUEUED", "node")
        # Another dispatcher, or the same one started again, knows what was told.
        pool.restart_dispatcher()
        other = user.submit(script("pass"), memory_gb=16_000)
        pool.wait(lambda: user.detail(other).reason, "the new dispatcher works")
        user.stop(other)
    finally:
        agent.thaw()
    assert one(pool, "node.back", node=agent.node_id)["seconds"] > 0
    user.stop(task)
    user.wait_for_end(task)
    for action in ("node.joined", "node.late", "node.lost"):
        one(pool, action, node=agent.node_id)


def test_refused_logins_are_bounded_and_name_nobody_who_is_not_there(pool: TestPool, user: Account) -> None:
    hostile = 'x\naction=admin.act admin=root "} {'
    for username, password in ((user.username, "wrong"), ("my-Secret-Passw0rd", "x"), (hostile, "x")):
        request = pb.LoginRequest(username=username, password=password)
        assert not user.stubs.users.Login(request, timeout=CALL_SECONDS).success
    known = one(pool, "login.refused", user=user.username)
    assert (known["address"], known["cause"]) == ("127.0.0.1", "wrong")
    assert len(told(pool, "login.refused", user="")) == 2
    for _ in range(40):
        request = pb.LoginRequest(username="nobody", password="x")
        user.stubs.users.Login(request, timeout=CALL_SECONDS)
    assert len(told(pool, "login.refused", address="127.0.0.1")) == 10
    assert "Passw0rd" not in pool.gateway.log()


def test_a_limit_that_is_hit_is_told_with_whom(pool: TestPool) -> None:
    user, request = pool.register_user(), pb.RefreshTokenRequest()

    def over() -> bool:
        try:
            user.stubs.users.RefreshToken(request, metadata=user.metadata, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False

    pool.wait(over, "there are too many calls")
    hit = told(pool, "limit.hit", user=user.username)[0]
    assert (hit["limit"], hit["method"]) == ("calls_per_minute", "RefreshToken")


def test_an_act_of_an_admin_is_told_with_what_was_done_to_whom(pool: TestPool, user: Account) -> None:
    admin = log_in(pool.stubs(), *ADMIN)
    request = pb.MintRequest(username=user.username, amount=7, mint_id=new_task_id(), memo="for \u202e tests")
    with pytest.raises(grpc.RpcError):
        admin.stubs.admin.Mint(request, metadata=admin.metadata, timeout=CALL_SECONDS)
    assert not told(pool, "admin.act", act="mint")
    request.memo = "for tests"
    for _ in range(2):
        admin.stubs.admin.Mint(request, metadata=admin.metadata, timeout=CALL_SECONDS)
    act = one(pool, "admin.act", act="mint")
    assert (act["admin"], act["subject"]) == (ADMIN[0], user.username)
    assert json.loads(act["detail"])["amount"] == 7
    one(pool, "admin.act", act="make-admin", subject=ADMIN[0])


def test_an_outage_is_told_by_whoever_finds_it_from_its_beginning_to_its_end(pool: TestPool) -> None:
    both = {"gateway", "dispatcher"}

    def seen(action: str) -> Callable[[], bool]:
        return lambda: {it["observer"] for it in told(pool, action, part="broker")} == both

    assert not told(pool, "outage.began", part="database")
    pool.valkey.freeze()
    try:
        pool.wait(seen("outage.began"), "both find that the broker is away")
    finally:
        pool.valkey.thaw()
    pool.wait(seen("outage.ended"), "both find that it is back")
    for observer in ("gateway", "dispatcher"):
        for action in ("outage.began", "outage.ended"):
            one(pool, action, part="broker", observer=observer)
    assert all(it["seconds"] > 0 for it in told(pool, "outage.ended", part="broker"))


def test_lines_have_the_fields_of_the_catalogue_and_no_secret(pool: TestPool, user: Account) -> None:
    actions = {event.action for event in EVENTS}
    for line in told(pool, *actions):
        assert line.keys() <= FIELD_WORDS.keys() | _OF_EVERY_LINE
    log = pool.gateway.log() + pool.dispatcher.log()
    passwords = (user.password, pool.owner.password, ADMIN[1], pool.valkey.password)
    for secret in (SECRET_OUTPUT, user.token, *passwords):
        assert secret not in log
