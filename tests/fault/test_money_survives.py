"""kill -9 of the gateway amid submits, ends and transfers: no CPT is made, lost or moved twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import pytest

from nodepool.protocol import nodepool_pb2 as pb
from nodepool.stores.sql.database import Database
from nodepool.stores.sql.ledger.api import verify_database
from tests.support.accounts import FINAL_WORDS, Account
from tests.support.environment import LONG
from tests.support.pool import PoolFactory, TestPool
from tests.support.tasks import script
from tests.support.waiting import wait_until

T = TypeVar("T")
GRANT = 10_000
KILLS, TURNS = (10, 12) if LONG else (5, 4)
USERS = 4
QUICK = script("print('done')")
# Killed before the answer, or so busy after its start that the answer came too late.
_CUT_OFF = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
GIVE_UP_SECONDS = 120.0


@pytest.fixture(scope="module")
def pool(pool_factory: PoolFactory) -> TestPool:
    settings = {
        "NEWCOMER_BALANCE_CPT": str(GRANT),
        "PLATFORM_FEE_PERCENT": "50",
        "AUDIT_SHARE": "0",
        "PROBE_HOURS": "0",
        # Ends that meet no gateway are told again, and not lost: this is about the gateway.
        "LEASE_SECONDS": "20",
        "NODE_LATE_SECONDS": "30",
    }
    return pool_factory(agents=2, settings=settings)


@dataclass
class Load:
    """Users who submit, stop and pay each other; each call is told again, as it was, until it is answered."""

    users: list[Account]
    tasks: list[tuple[Account, str]] = field(default_factory=list)
    answered: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def insist(self, call: Callable[[], T]) -> T:
        """Until there is an answer: whoever was cut off does not know whether it was done."""

        def answered() -> tuple[T] | None:
            try:
                return (call(),)
            except grpc.RpcError as error:
                if error.code() not in _CUT_OFF:
                    raise
            return None

        found = wait_until(answered, "the gateway answers", GIVE_UP_SECONDS)
        assert found is not None
        with self._lock:
            self.answered += 1
        return found[0]

    def work(self, number: int) -> None:
        me, other = self.users[number], self.users[(number + 1) % USERS]
        for turn in range(TURNS):
            task = f"task-{number}-{turn}"
            self.insist(lambda: me.submit(QUICK, task, cpu_score=50 * turn, max_minutes=3))  # noqa: B023
            with self._lock:
                self.tasks.append((me, task))
            request = pb.TransferRequest(
                token=me.token,
                receiver_username=other.username,
                amount=10 + turn,
                transfer_id=f"turn-{turn}",
            )
            for _ in range(2):
                self.insist(lambda: me.stubs.users.Transfer(request, timeout=10, wait_for_ready=True))  # noqa: B023
            if turn % 4 == 3:
                self.insist(lambda: me.stop(task))  # noqa: B023


def _balance(user: Account) -> pb.GetBalanceResponse:
    return user.stubs.users.GetBalance(pb.GetBalanceRequest(token=user.token), timeout=60)


def _problems(pool: TestPool) -> list[str]:
    database = Database(pool.database_url)
    try:
        return verify_database(database).problems
    finally:
        database.close()


@pytest.mark.timeout(400)
def test_kills_of_the_gateway_at_random_moments_leave_a_right_ledger(pool: TestPool) -> None:
    owner_before = _balance(pool.owner).balance
    load = Load([pool.register_user() for _ in range(USERS)])
    dice = random.Random()
    with ThreadPoolExecutor(USERS) as threads:
        working = [threads.submit(load.work, number) for number in range(USERS)]
        for _ in range(KILLS):
            # So many answers later, at whatever moment of the other calls that happens to be.
            goal = load.answered + dice.randint(1, 8)
            pool.wait(lambda: load.answered >= goal or all(it.done() for it in working), "calls go on")  # noqa: B023
            pool.gateway.kill()
            assert _problems(pool) == []
            pool.start_gateway()
        for it in working:
            it.result(timeout=GIVE_UP_SECONDS)
    for user, task in load.tasks:
        pool.wait(lambda: load.insist(lambda: user.poll(task)).status in FINAL_WORDS, f"{task} ends", 120)  # noqa: B023
    assert len(load.tasks) == USERS * TURNS
    paid = {user.username: 0 for user in load.users}
    for user, task in load.tasks:
        detail = user.detail(task)
        assert detail.held_cpt == 0
        paid[user.username] += detail.paid_cpt
    for user in load.users:
        answer = _balance(user)
        # What came in from one neighbour went out to the other, each of them once.
        assert (answer.balance, answer.held) == (GRANT - paid[user.username], 0)
    assert sum(paid.values()) > 0
    earned = _balance(pool.owner).balance - owner_before
    assert sum(paid.values()) // 2 <= earned <= sum(paid.values())
    assert _problems(pool) == []
