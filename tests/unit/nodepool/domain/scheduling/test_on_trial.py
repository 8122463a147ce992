"""One task at a time for nodes that are not trusted, where another owner has trusted ones."""

from __future__ import annotations

from typing import Any

import pytest

from nodepool.domain.explain.explanation import explain
from nodepool.domain.explain.pool_view import PoolView
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.fleet import Amounts, Fleet
from nodepool.domain.scheduling.placement import Chooser, Requirements, decide
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.trust.tiers import Tier

STRANGERS = 5
ONE = Claim(100, 100, 0, 0)
REQUIREMENTS = Requirements(claim=ONE, tier=Tier.LOW)


def node(node_id: str, owner_id: int, **facts: Any) -> NodeView:
    fields: dict[str, Any] = {
        "tier": Tier.LOW,
        "region": "asia",
        "gpu_name": "",
        "draining": False,
        "online": True,
        "capacity": Claim(4000, 4000, 0, 0, tasks=4),
        "reserved": Claim(0, 0, 0, 0, tasks=0),
    }
    return NodeView(node_id=node_id, owner_id=owner_id, **{**fields, **facts})


def fleet_of(*nodes: NodeView) -> Fleet:
    """With some more owners, whose nodes are away: enough that trust can be earned."""
    away = [node(f"away{number}", 100 + number, online=False, on_trial=True) for number in range(STRANGERS)]
    return Fleet.of([*nodes, *away])


def limited(fleet: Fleet) -> set[str]:
    return {
        node_id
        for node_id in fleet.row_of
        if fleet.gets_one_task(node_id, Tier.LOW) and "away" not in node_id
    }


TRUSTED = node("old", 1)


@pytest.mark.parametrize(
    ("others", "is_limited"),
    [
        ((), False),
        ((TRUSTED,), True),
        ((node("old", 2),), False),  # of its own owner
        ((node("old", 2), node("older", 1)), True),
        ((node("old", 1, online=False),), False),
        ((node("old", 1, draining=True),), False),
        ((node("old", 1, owner_only=True),), False),  # takes nobody else's tasks
        ((node("old", 1, kind=NodeKind.PUSHED),), False),  # this pool gives it nothing
        ((node("other", 1, on_trial=True),), False),
    ],
)
def test_who_is_there_to_be_preferred(others: tuple[NodeView, ...], *, is_limited: bool) -> None:
    fleet = fleet_of(node("new", 2, on_trial=True), *others)
    assert ("new" in limited(fleet)) is is_limited
    assert limited(fleet) <= {"new", "other"}


def test_where_too_few_owners_are_there_to_earn_trust_with_nobody_is_limited() -> None:
    fleet = Fleet.of([TRUSTED, node("new", 2, on_trial=True)])
    assert limited(fleet) == set()
    fleet = Fleet.of([TRUSTED, node("new", 2, on_trial=True)])
    fleet.least_owners = 1
    assert limited(fleet) == {"new"}


def test_a_trusted_node_that_a_task_may_not_have_is_nobody_to_prefer() -> None:
    fleet = fleet_of(node("new", 2, on_trial=True), node("old", 1, tier=Tier.NORMAL))
    assert fleet.gets_one_task("new", Tier.NORMAL)
    assert not fleet.gets_one_task("new", Tier.LOW)


def test_a_second_task_waits_and_is_told_why() -> None:
    busy = Claim(0, 0, 0, 0, tasks=1)
    new = node("new", 2, on_trial=True, reserved=busy)
    fleet = fleet_of(new, node("old", 1, reserved=Claim(4000, 0, 0, 0, tasks=4)))
    decision = decide(REQUIREMENTS, fleet)
    assert (decision.ranked, decision.failed[placement.ON_TRIAL]) == ((), 1)
    assert "one task at a time until its results are verified" in str(decision.reason())
    assert not decision.never_fits()


def test_one_plan_gives_it_no_second_task_either() -> None:
    fleet = fleet_of(node("new", 2, on_trial=True), node("old", 1, capacity=Claim(100, 100, 0, 0, tasks=1)))
    chooser, found = Chooser(REQUIREMENTS, fleet), []
    while (row := chooser.next()) is not None:
        fleet.take(row, Amounts.of(ONE))
        found.append(fleet.ids[row])
    assert sorted(found) == ["new", "old"]


def test_what_changes_of_the_others_is_seen_at_once() -> None:
    fleet = fleet_of(TRUSTED, node("new", 2, on_trial=True))
    assert limited(fleet) == {"new"}
    fleet.put(node("new", 2))  # trusted now
    assert limited(fleet) == set()
    fleet.put(node("new", 2, on_trial=True))
    fleet.remove("old")
    assert limited(fleet) == set()
    for number in range(40):  # and when the arrays grow
        fleet.put(node(f"more{number}", 1))
    assert limited(fleet) == {"new"}


def test_nobody_is_told_to_offer_more_slots_on_such_a_node() -> None:
    busy = Claim(0, 0, 0, 0, tasks=1)
    views = [
        node("new", 2, on_trial=True, reserved=busy),
        node("old", 1, draining=True),
        node("old2", 3, capacity=busy, reserved=busy),
    ]
    pool = PoolView.of(views, default_memory_mb=100, least_owners=1)
    explanation = explain(PlacementRequest(needs=Resources(100, 0), tier=Tier.LOW), pool)
    assert explanation.could_run == ("new",)
    assert "one task at a time" in explanation.sentence()
    assert not any("task slots" in one.sentence and "new" in one.sentence for one in explanation.suggestions)
