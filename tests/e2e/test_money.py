"""CPT through a whole pool: what a task costs, who gets it, and that the ledger is right afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from tests.support.accounts import CALL_SECONDS, Account
from tests.support.faults import WAITS, await_begun, let_go
from tests.support.hostile import refused
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import new_task_id, script

GRANT = 1000
# One GiB and half a core: 1.5, rounded up.
NEEDS = {"memory_gb": 1, "cpu_score": 50, "max_minutes": 5}
PRICE = 2
HELLO = script("print('hello')")


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    settings = {
        "NEWCOMER_BALANCE_CPT": str(GRANT),
        "PLATFORM_FEE_PERCENT": "50",
        # Results of nodes without Docker are paid at once, and not when they are verified.
        "AUDIT_SHARE": "0",
        "PROBE_HOURS": "0",
    }
    return pool_factory(agents=1, settings=settings)


@pytest.fixture
def user(pool: TestPool) -> Iterator[Account]:
    """Somebody with a new account; afterwards the whole ledger is right."""
    yield pool.register_user()
    database = Database(pool.database_url)
    try:
        assert verify_database(database).problems == []
    finally:
        database.close()


def _money(account: Account) -> tuple[int, int]:
    """What can be spent, and what is held beside it."""
    request = pb.GetBalanceRequest(token=account.token)
    answer = account.stubs.users.GetBalance(request, timeout=CALL_SECONDS)
    return answer.balance, answer.held


def _cost(account: Account, task_id: str) -> tuple[int, int, int]:
    detail = account.detail(task_id)
    return detail.price_per_minute_cpt, detail.held_cpt, detail.paid_cpt


def test_a_task_holds_its_longest_run_and_pays_the_minute_that_it_began(
    pool: TestPool, user: Account
) -> None:
    before = _money(pool.owner)[0]
    task = user.submit(script(WAITS), **NEEDS)
    assert _money(user) == (GRANT - 5 * PRICE, 5 * PRICE)
    await_begun(pool, user, task)
    assert _cost(user, task) == (PRICE, 5 * PRICE, 0)
    let_go(pool, pool.agents[0], task)
    user.wait_for(task, "COMPLETED")
    assert _cost(user, task) == (PRICE, 0, PRICE)
    assert _money(user) == (GRANT - PRICE, 0)
    # Half of it is the pool's.
    assert _money(pool.owner)[0] == before + PRICE // 2


def test_a_task_that_failed_by_its_own_code_is_paid(user: Account) -> None:
    task = user.submit(script("raise SystemExit(3)"), **NEEDS)
    user.wait_for(task, "FAILED")
    assert (_cost(user, task), _money(user)) == ((PRICE, 0, PRICE), (GRANT - PRICE, 0))


def test_a_stopped_run_is_paid_what_it_began_and_keeps_its_partial_result(
    pool: TestPool, user: Account
) -> None:
    task = user.submit(script(WAITS), **NEEDS)
    await_begun(pool, user, task)
    user.stop(task)
    user.wait_for(task, "STOPPED")
    assert (_cost(user, task), _money(user)) == ((PRICE, 0, PRICE), (GRANT - PRICE, 0))
    assert user.result(task)


def test_a_task_that_never_runs_gives_everything_back(user: Account) -> None:
    task = user.submit(HELLO, cpu_score=10_000, max_minutes=5, gpu_name="no such thing")
    assert _money(user) == (GRANT - 500, 500)
    user.stop(task)
    assert (_cost(user, task), _money(user)) == ((100, 0, 0), (GRANT, 0))


def test_a_repeated_upload_holds_nothing_again(user: Account) -> None:
    task = user.submit(HELLO, gpu_name="no such thing", **NEEDS)
    for _ in range(3):
        assert user.submit(HELLO, task, gpu_name="no such thing", **NEEDS) == task
    assert _money(user) == (GRANT - 5 * PRICE, 5 * PRICE)
    user.stop(task)
    assert user.submit(HELLO, task, gpu_name="no such thing", **NEEDS) == task
    assert _money(user) == (GRANT, 0)


def test_a_task_that_is_not_covered_is_refused_with_what_would_be_and_leaves_nothing(
    pool: TestPool, user: Account
) -> None:
    stored = set((pool.folder / "storage").rglob("*"))
    task = new_task_id()
    package = script(f"print({task!r})")
    code, message = refused(lambda: user.submit(package, task, cpu_score=2000, max_minutes=60))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    for words in ("20 CPT for each started minute", "1200 CPT", "1000 CPT in your account", "max_minutes 50"):
        assert words in message
    assert refused(lambda: user.poll(task))[0] is grpc.StatusCode.NOT_FOUND
    assert _money(user) == (GRANT, 0)
    assert set((pool.folder / "storage").rglob("*")) == stored


def test_a_task_for_ones_own_node_is_held_and_paid_to_oneself(pool: TestPool) -> None:
    owner, task = pool.owner, new_task_id()
    before, _ = _money(owner)
    request = pb.ExecuteTaskRequest(
        node_id=pool.agents[0].node_id, task_id=task, task_zip=script("print('mine')")
    )
    assert owner.stubs.workers.ExecuteTask(request, metadata=owner.metadata, timeout=CALL_SECONDS).success
    owner.wait_for(task, "COMPLETED")
    # One CPT, which the fee rounds down to nothing.
    assert (_cost(owner, task), _money(owner)) == ((1, 0, 1), (before, 0))


def test_who_cannot_cover_a_task_for_his_own_node_is_refused_as_well(pool: TestPool) -> None:
    poor = pool.register_user()
    agent = pool.add_agent("poor", poor)
    request = pb.TransferRequest(token=poor.token, receiver_username=pool.owner.username, amount=GRANT)
    assert poor.stubs.users.Transfer(request, timeout=CALL_SECONDS).success
    run = pb.ExecuteTaskRequest(node_id=agent.node_id, task_id=new_task_id(), task_zip=HELLO)
    code, message = refused(lambda: poor.stubs.workers.ExecuteTask(run, metadata=poor.metadata, timeout=60))
    assert (code, "0 CPT in your account" in message) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    agent.stop()
