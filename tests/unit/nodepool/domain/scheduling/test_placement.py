"""Placement as a pure function: what keeps a node out, who comes first, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.message_limits import AROUND_BYTES
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.fleet import Amounts, Fleet
from nodepool.domain.scheduling.placement import Chooser, Requirements
from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.tasks.reasons import ReasonCode
from nodepool.domain.trust.tiers import Tier, opens

NOTHING = Claim(0, 0, 0, 0, tasks=0)
ROOM = Claim(1000, 1000, 1000, 1000, tasks=4)
SMALL = Claim(100, 100, 0, 0)


def node(node_id: str = "n", **facts: object) -> NodeView:
    fields: dict[str, object] = {
        "tier": Tier.HIGH,
        "region": "asia",
        "gpu_name": "RTX 4090",
        "draining": False,
        "online": True,
        "capacity": ROOM,
        "reserved": NOTHING,
    }
    return NodeView(node_id=node_id, **{**fields, **facts})  # type: ignore[arg-type]


def requirements(**asked: object) -> Requirements:
    return Requirements(**{"claim": SMALL, "tier": Tier.HIGH, **asked})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "facts", "clause"),
    [
        ({}, {}, None),
        ({"region": "asia"}, {}, None),
        ({"gpu_name": "rtx 4090"}, {}, None),
        ({"node_id": "n"}, {}, None),
        ({"node_id": "other"}, {}, placement.OTHER_NODE),
        ({}, {"kind": NodeKind.PUSHED}, placement.PUSHED),
        ({"tier": Tier.LOW}, {}, placement.TRUST),
        ({"tier": Tier.LOW, "node_id": "n"}, {}, None),
        ({"not_owners": frozenset({7})}, {"owner_id": 7}, placement.OTHER_OWNER),
        ({"not_owners": frozenset({7, 8})}, {"owner_id": 9}, None),
        ({"not_owners": frozenset({7}), "node_id": "n"}, {"owner_id": 7}, placement.OTHER_OWNER),
        ({}, {"owner_only": True, "owner_id": 7}, placement.OWNER_ONLY),
        ({"owner_id": 8}, {"owner_only": True, "owner_id": 7}, placement.OWNER_ONLY),
        ({"node_id": "n", "owner_id": 8}, {"owner_only": True, "owner_id": 7}, placement.OWNER_ONLY),
        ({"owner_id": 7}, {"owner_only": True, "owner_id": 7}, None),
        ({"secrets_of": 8}, {"tier": Tier.LOW, "owner_id": 7}, placement.SECRETS),
        ({"secrets_of": 7}, {"tier": Tier.LOW, "owner_id": 7}, None),
        ({"secrets_of": 8}, {"tier": Tier.NORMAL, "owner_id": 7}, None),
        ({"region": "europe"}, {}, placement.REGION),
        ({"region": "asia"}, {"region": "unknown"}, placement.REGION),
        ({"gpu_name": "RTX 3090"}, {}, placement.GPU_NAME),
        ({"gpu_name": "RTX 3090"}, {"gpu_name": ""}, placement.GPU_NAME),
        ({"claim": Claim(1001, 0, 0, 0)}, {}, Clause(ClauseKind.TOO_SMALL, "cpu_score")),
        ({"claim": Claim(0, 1001, 0, 0)}, {"online": False}, Clause(ClauseKind.TOO_SMALL, "memory_mb")),
        ({}, {"capacity": replace(ROOM, tasks=0)}, Clause(ClauseKind.TOO_SMALL, "tasks")),
        ({}, {"online": False, "draining": True}, placement.OFFLINE),
        ({}, {"draining": True}, placement.DRAINING),
        ({}, {"reserved": Claim(901, 0, 0, 0)}, Clause(ClauseKind.BUSY, "cpu_score")),
        ({}, {"reserved": Claim(900, 900, 1000, 1000)}, None),
        ({}, {"reserved": replace(NOTHING, tasks=4)}, Clause(ClauseKind.BUSY, "tasks")),
    ],
)
def test_what_keeps_a_node_from_a_task(
    asked: dict[str, Any], facts: dict[str, Any], clause: Clause | None
) -> None:
    assert list(placement.place(requirements(**asked), [node(**facts)]).failed) == [clause] * (
        clause is not None
    )


def test_the_more_trusted_come_first_then_the_idle_then_the_smaller() -> None:
    half = Claim(500, 0, 0, 0)
    nodes = [
        node("low", tier=Tier.LOW),
        node("busy", reserved=half),
        node("big", capacity=replace(ROOM, cpu_score=2000)),
        node("b"),
        node("a"),
        node("normal", tier=Tier.NORMAL),
    ]
    assert placement.place(requirements(), nodes).ranked == ("a", "b", "big", "busy", "normal", "low")


def test_a_node_that_lost_the_task_before_comes_last() -> None:
    nodes = [node("a"), node("low", tier=Tier.LOW)]
    assert placement.place(requirements(excluded=frozenset({"a"})), nodes).ranked == ("low", "a")
    assert placement.place(requirements(excluded=frozenset({"a"})), nodes[:1]).ranked == ("a",)


def test_the_reason_has_numbers() -> None:
    nodes = [node("a", online=False), node("b", online=False), node("c", region="europe")]
    decision = placement.place(requirements(region="asia"), nodes)
    assert str(decision.reason()) == "waiting: looked at 3 nodes: 2 offline, 1 in another region"


def test_an_empty_pool_says_so() -> None:
    assert placement.place(requirements(), []).reason().code is ReasonCode.NO_NODE_JOINED


def test_what_no_node_can_ever_run_is_told_from_what_waits() -> None:
    small, busy = node("a", capacity=replace(ROOM, cpu_score=1)), node("b", reserved=ROOM)
    assert placement.place(requirements(), [small]).never_fits()
    assert placement.place(requirements(), [small]).reason().code is ReasonCode.NO_NODE_EVER
    for passing in (busy, node("c", online=False), node("d", draining=True)):
        decision = placement.place(requirements(), [small, passing])
        assert not decision.never_fits()
        assert decision.reason().code is ReasonCode.NO_NODE_NOW


AMOUNTS = st.integers(0, 20)
CLAIMS = st.builds(Claim, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, tasks=st.integers(0, 3))
NODES = st.builds(
    NodeView,
    node_id=st.sampled_from([f"n{number}" for number in range(8)]),
    tier=st.sampled_from(Tier),
    region=st.sampled_from(["asia", "europe"]),
    gpu_name=st.sampled_from(["", "x"]),
    draining=st.booleans(),
    online=st.booleans(),
    capacity=CLAIMS,
    reserved=CLAIMS,
)
REQUIREMENTS = st.builds(
    Requirements,
    claim=st.builds(Claim, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS),
    tier=st.sampled_from(Tier),
    region=st.sampled_from(["any", "asia"]),
    gpu_name=st.sampled_from(["", "X"]),
    node_id=st.sampled_from(["", "n1"]),
    excluded=st.frozensets(st.sampled_from(["n1", "n2"])),
)


@given(REQUIREMENTS, st.lists(NODES, max_size=8, unique_by=lambda view: view.node_id))
def test_every_chosen_node_fits_and_every_other_is_counted(
    asked: Requirements, nodes: list[NodeView]
) -> None:
    decision = placement.place(asked, nodes)
    by_id = {view.node_id: view for view in nodes}
    assert len(decision.ranked) + sum(decision.failed.values()) == decision.looked_at == len(nodes)
    for node_id in decision.ranked:
        view = by_id[node_id]
        assert view.online
        assert not view.draining
        assert asked.node_id in ("", node_id)
        assert asked.node_id or opens(asked.tier, view.tier)
        for name in RESOURCE_NAMES:
            taken = getattr(view.reserved, name) + getattr(asked.claim, name)
            assert taken <= getattr(view.capacity, name)


@given(REQUIREMENTS, st.lists(NODES, max_size=6, unique_by=lambda view: view.node_id), st.randoms())
def test_the_order_of_the_nodes_does_not_matter(
    asked: Requirements, nodes: list[NodeView], random: object
) -> None:
    shuffled = sorted(nodes, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert placement.place(asked, nodes) == placement.place(asked, shuffled)


MIB = 1 << 20


def limited() -> Fleet:
    return Fleet.of(
        [
            node("agent"),
            node("four", message_bytes=4 * MIB),
            node("eight", message_bytes=8 * MIB),
            node("other eight", message_bytes=8 * MIB),
        ]
    )


def test_packages_are_not_offered_to_nodes_that_take_no_such_message() -> None:
    fleet = limited()
    most = 4 * MIB - AROUND_BYTES
    for package, over, takers in (
        (most, 0, 4),
        (most + 1, 4 * MIB, 3),
        (6 * MIB, 4 * MIB, 3),
        (9 * MIB, 8 * MIB, 1),
    ):
        assert fleet.too_small_for(package) == over
        asked = requirements(over_bytes=over)
        assert len(placement.decide(asked, fleet).ranked) == takers
        chooser, chosen = Chooser(asked, fleet), set()
        while (row := chooser.next()) is not None:
            chosen.add(fleet.ids[row])
            fleet.take(row, Amounts.of(ROOM))
        assert len(chosen) == takers
        for node_id in chosen:
            fleet.give_back(fleet.row_of[node_id], Amounts.of(ROOM))


def test_a_limited_node_is_told_in_words_with_and_without_the_size() -> None:
    asked = requirements(over_bytes=4 * MIB)
    reason = placement.place(asked, [node(message_bytes=4 * MIB)]).reason()
    assert reason.code is ReasonCode.NO_NODE_NOW
    assert str(reason) == (
        "waiting: looked at 1 nodes: 1 takes messages of at most 4 MiB, this package has more"
    )
    asked = requirements(over_bytes=4 * MIB, package_bytes=6 * MIB)
    (clause,) = placement.decide(asked, limited()).failed
    assert str(clause) == "takes messages of at most 4 MiB, this package has 6 MiB"


def test_bounds_come_and_go_with_their_nodes() -> None:
    fleet = limited()
    assert fleet.message_bounds == (4 * MIB, 8 * MIB)
    fleet.remove("four")
    assert fleet.message_bounds == (8 * MIB,)
    fleet.put(node("eight"))
    assert fleet.message_bounds == (8 * MIB,)
    fleet.put(node("other eight", message_bytes=2 * MIB))
    assert fleet.message_bounds == (2 * MIB,)
    for number in range(50):  # it grows
        fleet.put(node(f"more {number}"))
    assert len(placement.decide(requirements(over_bytes=2 * MIB), fleet).failed) == 1
    fleet.remove("other eight")
    fleet.put(node("new in its row"))
    assert (fleet.message_bounds, fleet.too_small_for(1 << 40)) == ((), 0)


def test_a_node_of_another_generation_gets_nothing_and_it_is_told_why_also_when_it_is_away() -> None:
    for generation, clause, passes in (
        (Generation.LATER, placement.LATER_GENERATION, False),
        (Generation.UNTOLD, placement.UNTOLD, True),
    ):
        for online in (True, False):
            shown = node(generation=generation, draining=True, online=online)
            decision = placement.place(requirements(), [shown])
            assert list(decision.failed) == [clause]
            assert decision.never_fits() is not passes
