"""Tasks that hold their price when they are placed: who cannot pay is passed over at once."""

from __future__ import annotations

from typing import Any

from nodepool.domain.money.pricing import covered_minutes
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fleet import Fleet
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.planner import Planner
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask
from nodepool.domain.trust.tiers import Tier

SMALL = Claim(1000, 1024, 0, 0)


class Pool:
    """A planner with balances, as the dispatcher keeps them."""

    def __init__(self, **balances: int) -> None:
        fleet = Fleet()
        nothing, room = Claim(0, 0, 0, 0, tasks=0), Claim(100_000, 100_000, 0, 0, tasks=100)
        fleet.put(
            NodeView(
                node_id="a",
                tier=Tier.HIGH,
                region="asia",
                gpu_name="",
                draining=False,
                online=True,
                capacity=room,
                reserved=nothing,
            )
        )
        self.balances = {int(name[1:]): balance for name, balance in balances.items()}
        self.asked = 0
        self.planner = Planner(
            fleet, Ageing(600, 60, 30), served=lambda _: 0.0, charge=self._charge, affords=self._affords
        )

    def _charge(self, task: WaitingTask) -> None:
        self.balances[task.owner_id] -= task.to_hold

    def _affords(self, task: WaitingTask) -> bool:
        self.asked += 1
        return self.balances[task.owner_id] >= task.to_hold

    def add(self, *names: str, owner: int = 1, to_hold: int = 0, **fields: Any) -> None:
        for at, name in enumerate(names):
            task = WaitingTask(
                task_id=name, owner_id=owner, requirements=Requirements(claim=SMALL, tier=Tier.HIGH),
                priority=5, created_at=at / 1000, queued_at=0.0, to_hold=to_hold, **fields,
            )  # fmt: skip
            self.planner.queue.add(task, 1.0)

    def plan(self) -> list[str]:
        return sorted(it.task.task_id for it in self.planner.plan(1.0, 1000))


def test_as_many_are_placed_as_there_is_money_for() -> None:
    pool = Pool(u1=25)
    pool.add("a", "b", "c", to_hold=10)
    assert pool.plan() == ["a", "b"]
    assert pool.planner.queue.without_money() == [1]
    assert pool.planner.queue.unpaid_of(1) == {10: ["c"]}


def test_what_is_paid_already_and_what_is_cheaper_goes_on() -> None:
    pool = Pool(u1=5)
    pool.add("dear", to_hold=10)
    pool.add("cheap", to_hold=4)
    pool.add("paid")
    assert pool.plan() == ["cheap", "paid"]
    assert [pool.planner.queue.is_kept_back(it) for it in pool.planner.queue.of_owner(1)] == [True]


def test_one_user_without_money_is_asked_for_once_and_holds_up_nobody() -> None:
    pool = Pool(u1=0, u2=3)
    pool.add(*(f"x{number}" for number in range(5000)), owner=1, to_hold=10)
    pool.add("mine", owner=2, to_hold=3)
    assert pool.plan() == ["mine"]
    assert pool.asked == 2
    pool.add("later", owner=1, to_hold=10)
    assert pool.plan() == []
    assert pool.asked == 2


def test_money_wakes_what_it_covers() -> None:
    pool = Pool(u1=0)
    pool.add("a", "b", to_hold=10)
    pool.add("big", to_hold=100)
    assert pool.plan() == []
    queue, pool.balances[1] = pool.planner.queue, 20
    queue.money_came(1, 20, 1.0)
    assert pool.plan() == ["a", "b"]
    assert queue.unpaid_of(1) == {100: ["big"]}


def test_who_waits_for_money_and_is_stopped_leaves_nothing_behind() -> None:
    pool = Pool(u1=0)
    pool.add("a", to_hold=10)
    pool.plan()
    pool.planner.queue.discard("a")
    assert pool.planner.queue.without_money() == []
    pool.planner.queue.money_came(1, 20, 1.0)
    pool.balances[1] = 20
    pool.add("b", to_hold=10)
    assert pool.plan() == ["b"]


def test_minutes_are_those_of_the_pool_or_what_is_covered() -> None:
    assert [covered_minutes(balance, 3, 60) for balance in (1000, 180, 179, 3, 2, 0)] == [60, 60, 59, 1, 0, 0]
