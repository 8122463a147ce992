"""The planner over arrays: what it chooses is what the plain rules choose, however much changes meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings, strategies as st

from nodepool.domain import regions
from nodepool.domain.capabilities import Capability
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.resources import RESOURCE_NAMES, Claim
from nodepool.domain.scheduling.fleet import Amounts, Fleet
from nodepool.domain.scheduling.placement import MIN_TRUST, NEEDS_AGENT, Chooser, Requirements, decide, place
from nodepool.domain.scheduling.planner import Planner
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask
from nodepool.domain.tasks.clauses import Clause, ClauseKind
from nodepool.domain.trust.tiers import Tier

NOTHING = Claim(0, 0, 0, 0, tasks=0)
ROOM = Claim(4000, 8192, 0, 0, tasks=4)
SMALL = Claim(1000, 512, 0, 0)


def node(node_id: str, **facts: Any) -> NodeView:
    fields = {
        "tier": Tier.HIGH, "region": "asia", "gpu_name": "", "draining": False, "online": True,
        "capacity": ROOM, "reserved": NOTHING, **facts,
    }  # fmt: skip
    return NodeView(node_id=node_id, **fields)


class Pool:
    """A planner whose account of who was served is a counter."""

    def __init__(self, *views: NodeView) -> None:
        self.served: Counter[int] = Counter()
        self.planner = Planner(
            Fleet.of(views),
            Ageing(600, 60, 30),
            served=lambda owner: self.served[owner],
            charge=lambda task: self.served.update({task.owner_id: 1}),
        )
        self._count = 0

    def add(self, count: int = 1, *, owner: int = 1, **requirements: Any) -> None:
        for _ in range(count):
            self._count += 1
            asked = Requirements(**{"claim": SMALL, "tier": Tier.HIGH, **requirements})
            task = WaitingTask(
                task_id=f"t{self._count:03}", owner_id=owner, requirements=asked, priority=5,
                created_at=self._count / 1000, queued_at=0.0,
            )  # fmt: skip
            self.planner.queue.add(task, 1.0)

    def plan(self, limit: int = 1000) -> list[tuple[str, str]]:
        return [(it.task.task_id, it.node_id) for it in self.planner.plan(1.0, limit)]


def test_a_node_gets_as_many_as_fit_and_the_rest_wait() -> None:
    pool = Pool(node("a"))
    pool.add(6)
    assert pool.plan() == [(f"t00{number}", "a") for number in range(1, 5)]
    assert len(pool.planner.queue) == 2
    assert pool.plan() == []


def test_load_is_spread_in_steps() -> None:
    pool = Pool(node("a"), node("b"))
    pool.add(8)
    assert Counter(node_id for _, node_id in pool.plan()) == {"a": 4, "b": 4}


def test_room_that_comes_back_is_given_to_who_waits() -> None:
    pool = Pool(node("a"))
    pool.add(5)
    pool.plan()
    fleet = pool.planner.fleet
    fleet.give_back(fleet.row_of["a"], Amounts.of(SMALL))
    assert pool.plan() == []  # nobody has said so yet
    pool.planner.more_room(fleet.row_of["a"], 1.0)
    assert pool.plan() == [("t005", "a")]


def test_a_node_that_comes_is_seen() -> None:
    pool = Pool()
    pool.add(1)
    assert pool.plan() == []
    pool.planner.fleet.put(node("late"))
    pool.planner.facts_changed(1.0)
    assert pool.plan() == [("t001", "late")]


def test_a_node_that_leaves_gets_nothing_and_its_row_is_used_again() -> None:
    pool = Pool(node("a"), node("b", tier=Tier.LOW))
    pool.planner.fleet.remove("a")
    pool.planner.facts_changed(1.0)
    pool.add(1)
    assert pool.plan() == [("t001", "b")]
    row = pool.planner.fleet.put(node("c"))
    assert (row, len(pool.planner.fleet)) == (0, 2)


def test_of_two_equal_nodes_the_one_with_the_better_history_is_chosen() -> None:
    views = [node("a", quality=0.4), node("b", quality=0.9)]
    assert place(Requirements(claim=SMALL, tier=Tier.HIGH), views).ranked == ("b", "a")


def test_trust_can_be_asked_for() -> None:
    views = [node("low", tier=Tier.LOW), node("normal", tier=Tier.NORMAL), node("high")]
    decision = place(Requirements(claim=SMALL, tier=Tier.HIGH, min_trust=Tier.NORMAL), views)
    assert decision.ranked == ("high", "normal")
    assert decision.failed == {MIN_TRUST: 1}


def test_a_relaxed_wish_takes_the_nearest_region_first() -> None:
    views = [node(slug, region=slug) for slug in regions.NODE_REGIONS]
    near = place(Requirements(claim=SMALL, tier=Tier.HIGH, region="europe", relaxed=True), views).ranked
    steps = [regions.distance("europe", node_id) for node_id in near]
    assert near[0] == "europe"
    assert steps == sorted(steps)
    assert near[-1] == "unknown"


def test_pushed_nodes_are_taken_only_where_they_may_be() -> None:
    view = node("p", kind=NodeKind.PUSHED)
    requirements = Requirements(claim=SMALL, tier=Tier.HIGH)
    assert place(requirements, [view]).ranked == ()
    assert place(requirements, [view], allow_pushed=True).ranked == ("p",)


def test_a_task_that_needs_an_agent_is_not_given_to_a_node_without_one() -> None:
    views = [node("agent", tier=Tier.LOW), node("pushed", kind=NodeKind.PUSHED)]
    decision = place(Requirements(claim=SMALL, tier=Tier.HIGH, needs_agent=True), views, allow_pushed=True)
    assert decision.ranked == ("agent",)
    assert decision.failed == {NEEDS_AGENT: 1}


def test_a_task_with_arguments_goes_to_no_agent_that_would_drop_them() -> None:
    views = [node("old"), node("new", tier=Tier.LOW, capabilities="inputs time_travel")]
    views.append(node("pushed", kind=NodeKind.PUSHED))
    wanted = Requirements(claim=SMALL, tier=Tier.HIGH, capabilities=frozenset({Capability.INPUTS}))
    decision = place(wanted, views, allow_pushed=True)
    assert decision.ranked == ("new",)
    assert decision.failed == {Clause(ClauseKind.NOT_ABLE, "inputs"): 2}
    assert str(decision.reason()).endswith(
        "2 with an older agent or none, which passes no arguments or environment variables on"
    )
    assert Fleet.of(views).view(0).capabilities == "inputs"
    unknown = replace(wanted, capabilities=frozenset({"time_travel"}))
    assert place(unknown, views).ranked == ()


def test_an_agent_that_is_brought_up_to_date_is_taken_from_then_on() -> None:
    fleet = Fleet.of([node("n")])
    wanted = Requirements(claim=SMALL, tier=Tier.HIGH, capabilities=frozenset({Capability.INPUTS}))
    assert decide(wanted, fleet).ranked == ()
    fleet.put(node("n", capabilities="inputs"))
    assert decide(wanted, fleet).ranked == ("n",)
    assert Chooser(wanted, fleet).next() == fleet.row_of["n"]
    fleet.remove("n")
    fleet.put(node("m"))
    assert decide(wanted, fleet).ranked == ()


def test_a_large_fleet_is_chosen_from_in_the_order_of_the_rules() -> None:
    """More nodes than the short list holds: what follows the list is found as well."""
    views = [
        node(f"n{number:04}", tier=list(Tier)[number % 3], quality=1 - number % 7 / 10)
        for number in range(1500)
    ]
    pool = Pool(*(replace(view, capacity=replace(ROOM, tasks=1)) for view in views))
    pool.add(1500)
    chosen = [node_id for _, node_id in pool.plan(2000)]
    assert sorted(chosen) == [view.node_id for view in views]
    # Equals may change places where the list is cut.
    by_id = {view.node_id: (view.tier, view.quality) for view in views}
    ranked = place(Requirements(claim=SMALL, tier=Tier.HIGH), views).ranked
    assert [by_id[node_id] for node_id in chosen] == [by_id[node_id] for node_id in ranked]


def test_the_arrays_grow_and_keep_what_is_in_them() -> None:
    fleet = Fleet()
    views = [
        node(
            f"n{number}",
            gpu_name=f"gpu {number % 3}",
            owner_id=number % 5,
            reserved=replace(NOTHING, cpu_score=number),
        )
        for number in range(100)
    ]
    for view in views:
        fleet.put(view)
    assert [fleet.view(fleet.row_of[view.node_id]) for view in views] == views


AMOUNTS = st.integers(0, 8)
CLAIMS = st.builds(Claim, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, tasks=st.integers(0, 3))
VIEWS = st.lists(
    st.builds(
        NodeView,
        node_id=st.sampled_from([f"n{number}" for number in range(9)]),
        tier=st.sampled_from(Tier),
        region=st.sampled_from(["asia", "europe", "oceania"]),
        gpu_name=st.sampled_from(["", "x"]),
        draining=st.booleans(),
        online=st.booleans(),
        capacity=CLAIMS,
        reserved=st.just(NOTHING),
        quality=st.sampled_from([0.2, 0.9]),
        owner_id=st.integers(0, 2),
    ),
    max_size=9,
    unique_by=lambda view: view.node_id,
)
REQUIREMENTS = st.builds(
    Requirements,
    claim=st.builds(Claim, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS),
    tier=st.sampled_from(Tier),
    min_trust=st.sampled_from([None, *Tier]),
    region=st.sampled_from(["any", "asia"]),
    relaxed=st.booleans(),
    gpu_name=st.sampled_from(["", "x"]),
    node_id=st.sampled_from(["", "", "n1"]),
    excluded=st.frozensets(st.sampled_from(["n1", "n2"])),
    not_owners=st.frozensets(st.integers(0, 2), max_size=2),
)


@settings(max_examples=150)
@given(VIEWS, REQUIREMENTS, st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=20))
def test_the_chooser_always_chooses_as_the_plain_rules_do(
    views: Any, requirements: Requirements, acts: Any
) -> None:
    """Whatever is taken and given back in between, the next choice is the first of a decision made anew."""
    fleet = Fleet.of(views)
    chooser = Chooser(requirements, fleet)
    amounts = Amounts.of(requirements.claim)
    taken: list[int] = []
    for takes, index in acts:
        ranked = decide(requirements, fleet).ranked
        row = chooser.next()
        assert (None if row is None else fleet.ids[row]) == next(iter(ranked), None)
        if takes and row is not None:
            fleet.take(row, amounts)
            taken.append(row)
        elif taken:
            back = taken.pop(index % len(taken))
            fleet.give_back(back, amounts)
            chooser.offer(back)


@settings(max_examples=100)
@given(VIEWS, st.lists(st.tuples(REQUIREMENTS, st.integers(1, 3)), max_size=15))
def test_nothing_is_over_allocated_and_who_waits_fits_nowhere(views: Any, asked: Any) -> None:
    pool = Pool(*views)
    for requirements, owner in asked:
        pool.add(
            owner=owner, **{name: getattr(requirements, name) for name in Requirements.__dataclass_fields__}
        )
    placed = pool.plan()
    fleet = pool.planner.fleet
    for row in fleet.row_of.values():
        after = fleet.view(row)
        for name in RESOURCE_NAMES:
            assert getattr(after.reserved, name) <= max(getattr(after.capacity, name), 0)
    assert len(placed) + len(pool.planner.queue) == len(asked)
    for group in pool.planner.queue.groups():
        assert decide(group.requirements, fleet).ranked == ()
