"""Why a task waits: the true reason, and suggestions that do what they say when they are followed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nodepool import wire
from nodepool.domain import regions
from nodepool.domain.capabilities import Capability
from nodepool.domain.explain.explanation import ONCE_IDLE, PlacementExplanation, PlacementSuggestion, explain
from nodepool.domain.explain.pool_view import HeldBack, PoolView
from nodepool.domain.nodes.generation import Generation
from nodepool.domain.nodes.node import NodeKind, NodeView
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.scheduling import placement
from nodepool.domain.scheduling.placement import place
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import Tier

GIB = 1024
DEFAULT_MB = 512
NOTHING = Claim(0, 0, 0, 0, tasks=0)
ROOM = Claim(4000, 16 * GIB, 0, 0, tasks=4)


def node(node_id: str = "n", **facts: Any) -> NodeView:
    fields: dict[str, Any] = {
        "tier": Tier.HIGH,
        "region": "asia",
        "gpu_name": "",
        "draining": False,
        "online": True,
        "capacity": ROOM,
        "reserved": NOTHING,
    }
    return NodeView(node_id=node_id, **{**fields, **facts})


def asks(**requested: Any) -> PlacementRequest:
    amounts = {name: requested.pop(name) for name in Resources.__slots__ if name in requested}
    return PlacementRequest(needs=Resources(**amounts), **{"tier": Tier.HIGH, **requested})


def pool_of(*nodes: NodeView, **settings: Any) -> PoolView:
    return PoolView.of(nodes, **{"default_memory_mb": DEFAULT_MB, "patience_seconds": 30.0, **settings})


def followed(asked: PlacementRequest, suggestion: PlacementSuggestion) -> PlacementRequest:
    """The task that its owner submits after having read field and value, and nothing else."""
    field, value = suggestion.field, suggestion.value
    if field in Resources.__slots__:
        finer = {"memory_mb": 0} if field == "memory_gb" else {}
        return replace(asked, needs=replace(asked.needs, **{field: int(value)}, **finer))
    if field == "location":
        return replace(asked, region=regions.task_region(value))
    if field == "location_mode":
        # As it is when it has waited for its region.
        return replace(asked, location_mode=wire.location_mode_from_wire(value), relaxed=True)
    if field == "min_trust":
        word = wire.min_trust_from_wire(value)
        return replace(asked, min_trust=Tier(word) if word else None)
    if field == "gpu_name":
        return replace(asked, gpu_name=wire.gpu_name_from_wire(value))
    if field == "secrets_on_low_trust":
        assert value == "true"
        return replace(asked, secrets_of=0)
    assert (field, value) == ("node_id", "any")
    return replace(asked, node_id="")


def takers(asked: PlacementRequest, nodes: list[NodeView], **options: Any) -> int:
    return len(place(asked.requirements(DEFAULT_MB), nodes, **options).ranked)


def emptied(nodes: list[NodeView]) -> list[NodeView]:
    return [replace(view, reserved=NOTHING) for view in nodes]


def values(explanation: PlacementExplanation) -> list[tuple[str, str]]:
    return [(one.field, one.value) for one in explanation.suggestions]


def sentences(explanation: PlacementExplanation) -> list[str]:
    return [one.sentence for one in explanation.suggestions]


SMALL_GPU = replace(ROOM, gpu_score=5000, gpu_memory_gb=8)
FULL = replace(ROOM, tasks=0)
STUCK: dict[str, tuple[PlacementRequest, list[NodeView], str, list[tuple[str, str]]]] = {
    "too much memory": (
        asks(memory_gb=64),
        [node("a"), node("b", capacity=replace(ROOM, memory_mb=24 * GIB), reserved=Claim(0, 100, 0, 0))],
        "too small: memory",
        [("memory_gb", "23")],
    ),
    "too much CPU": (asks(cpu_score=9000), [node("a")], "too small: cpu_score", [("cpu_score", "4000")]),
    "a GPU that nobody has": (
        asks(gpu_score=100),
        [node("a")],
        "too small: gpu_score",
        [("gpu_score", "0")],
    ),
    "too much GPU memory": (
        asks(gpu_score=100, gpu_memory_gb=24),
        [node("a", capacity=SMALL_GPU)],
        "too small: GPU memory",
        [("gpu_memory_gb", "8")],
    ),
    "a GPU's name that nobody has": (
        asks(gpu_score=100, gpu_name="H100"),
        [node("a", gpu_name="RTX 4090", capacity=SMALL_GPU), node("b")],
        placement.GPU_NAME,
        [("gpu_name", "RTX 4090"), ("gpu_name", "Any")],
    ),
    "a region without nodes": (
        asks(region="africa"),
        [node("a"), node("b", region="europe")],
        placement.REGION,
        [("location_mode", "prefer"), ("location", "europe"), ("location", "Any")],
    ),
    "busy": (
        asks(memory_gb=12),
        [node("a", reserved=Claim(0, 8 * GIB, 0, 0))],
        "busy: memory",
        [("memory_gb", "8")],
    ),
    "trust that is not there": (
        asks(min_trust=Tier.HIGH),
        [node("a", tier=Tier.LOW)],
        placement.MIN_TRUST,
        [("min_trust", "any")],
    ),
    "trust that is only one tier off": (
        asks(min_trust=Tier.HIGH),
        [node("a", tier=Tier.NORMAL), node("b", tier=Tier.LOW)],
        placement.MIN_TRUST,
        [("min_trust", "normal")],
    ),
    "secrets, and nodes of low trust": (
        asks(secrets_of=7),
        [node("a", tier=Tier.LOW), node("b", tier=Tier.LOW, owner_id=8)],
        placement.SECRETS,
        [("secrets_on_low_trust", "true")],
    ),
    "a node that is gone": (asks(node_id="gone"), [node("a")], placement.OTHER_NODE, [("node_id", "any")]),
    "memory that is no whole GiB": (
        asks(memory_gb=2, memory_mb=1536),
        [node("a", capacity=replace(ROOM, memory_mb=1200))],
        "too small: memory",
        [("memory_gb", "1")],
    ),
    "less than the pool's default of memory": (
        asks(memory_gb=1),
        [node("a", capacity=replace(ROOM, memory_mb=600))],
        "too small: memory",
        [("memory_gb", "0")],
    ),
}


@pytest.mark.parametrize("what", STUCK)
def test_the_reason_is_true_and_the_smallest_changes_are_found(what: str) -> None:
    asked, nodes, clause, suggested = STUCK[what]
    explanation = explain(asked, pool_of(*nodes))
    assert str(clause) in {str(failed) for failed in explanation.decision.failed}
    assert str(clause) in explanation.sentence()
    assert values(explanation) == suggested
    for suggestion in explanation.suggestions:
        assert takers(followed(asked, suggestion), nodes) == suggestion.nodes > 0


ACTS: dict[str, tuple[PlacementRequest, list[NodeView], str, str]] = {
    "draining": (asks(), [node("a", draining=True)], placement.DRAINING, "the owner of a resumes it"),
    "offline": (asks(), [node("a", online=False)], placement.OFFLINE, "the owner of a starts it again"),
    "offline and draining": (
        asks(),
        [node("a", online=False, draining=True)],
        placement.OFFLINE,
        "starts it again and resumes it",
    ),
    "no slot": (asks(), [node("a", reserved=Claim(0, 0, 0, 0, tasks=4))], "busy: task slots", "--max-tasks"),
    "no agent": (asks(), [node("a", kind=NodeKind.PUSHED)], placement.PUSHED, "PUSH_TO_NODES"),
    "too large": (
        asks(over_bytes=4 << 20, package_bytes=6 << 20),
        [node("a", message_bytes=4 << 20)],
        "takes messages of at most 4 MiB, this package has 6 MiB",
        "its package becomes smaller than 4 MiB (.hivemindignore), or the owner of a lets its worker",
    ),
    "later generation": (
        asks(),
        [node("a", generation=Generation.LATER, draining=True)],
        placement.LATER_GENERATION,
        "the owner of a starts an agent there",
    ),
    "has not reported": (
        asks(),
        [node("a", generation=Generation.UNTOLD, draining=True, online=False)],
        placement.UNTOLD,
        "the worker of a reports its status",
    ),
    "credit": (asks(tier=Tier.LOW), [node("a", tier=Tier.HIGH)], placement.TRUST, "credit score of 100"),
    "less credit": (
        asks(tier=Tier.LOW),
        [node("a", tier=Tier.HIGH), node("b", tier=Tier.NORMAL)],
        placement.TRUST,
        "credit score of 50",
    ),
}


@pytest.mark.parametrize("what", ACTS)
def test_where_no_change_of_the_task_helps_others_are_told_what_would(what: str) -> None:
    asked, nodes, clause, words = ACTS[what]
    explanation = explain(asked, pool_of(*nodes))
    assert str(clause) in {str(failed) for failed in explanation.decision.failed}
    (act,) = explanation.suggestions
    assert (act.field, act.value, act.nodes) == ("", "", 1)
    assert words in act.sentence


def test_acts_name_a_node_that_they_would_help_and_the_largest_help_comes_first() -> None:
    nodes = [
        node("a", draining=True),
        node("b", online=False),
        node("c", online=False),
        node("d", online=False, draining=True),
    ]
    explanation = explain(asks(), pool_of(*nodes))
    assert [one.nodes for one in explanation.suggestions] == [2, 1, 1]
    assert [one.sentence.split(" resumes")[0].split(" starts")[0] for one in explanation.suggestions] == [
        "the owner of b",
        "the owner of a",
        "the owner of d",
    ]


def test_a_node_whose_docker_has_stopped_is_not_told_to_resume() -> None:
    pool = pool_of(node("a", draining=True), held_back=HeldBack(engine_away=frozenset({"a", "gone"})))
    (act,) = explain(asks(), pool).suggestions
    assert "the owner of a starts Docker there again" in act.sentence
    held_back = HeldBack(engine_away_too=frozenset({"a"}))
    (act,) = explain(asks(), pool_of(node("a", draining=True), held_back=held_back)).suggestions
    assert act.sentence.startswith("another node joins")


def test_a_node_on_probation_is_not_told_to_offer_more_slots() -> None:
    full = node("a", capacity=replace(ROOM, tasks=1), reserved=Claim(0, 0, 0, 0, tasks=1))
    pool = pool_of(full, held_back=HeldBack(on_probation=frozenset({"a"})))
    explanation = explain(asks(), pool)
    assert explanation.suggestions == ()
    assert explanation.could_run == ("a",)


def test_a_pool_that_pushes_looks_at_nodes_without_an_agent() -> None:
    explanation = explain(asks(), pool_of(node("a", kind=NodeKind.PUSHED), allow_pushed=True))
    assert explanation.decision.ranked == ("a",)


def test_a_task_that_has_a_node_needs_no_change() -> None:
    explanation = explain(asks(memory_gb=2), pool_of(node("a"), node("b", tier=Tier.LOW)))
    assert explanation.suggestions == ()
    assert explanation.could_run == ("a", "b")
    assert explanation.sentence() == "node a can take it now, of 2 that can"


def test_what_would_fit_later_is_marked_and_comes_only_where_nothing_fits_now() -> None:
    full = node("a", reserved=Claim(4000, 0, 0, 0, tasks=4))
    explanation = explain(asks(memory_gb=64), pool_of(full))
    (later,) = explanation.suggestions
    assert (later.field, later.value, later.nodes) == ("memory_gb", "16", 0)
    assert later.sentence.startswith(ONCE_IDLE)
    assert takers(followed(asks(memory_gb=64), later), emptied([full])) == 1
    assert explanation.can_never_run
    assert explain(asks(memory_gb=8), pool_of(full)).could_run == ("a",)
    assert not any(ONCE_IDLE in words for words in sentences(explain(asks(memory_gb=8), pool_of(full))))


def test_a_busy_pool_says_how_many_could_run_it_later() -> None:
    nodes = [node("a", reserved=ROOM), node("b", reserved=ROOM), node("c", capacity=FULL)]
    explanation = explain(asks(memory_gb=16), pool_of(*nodes))
    assert explanation.sentence().endswith("; 2 nodes can run it once there is room")
    assert not explanation.can_never_run


def test_an_empty_pool_asks_for_a_node_that_would_do() -> None:
    asked = asks(memory_gb=64, cpu_score=100, region="europe", min_trust=Tier.NORMAL, gpu_name="H100")
    explanation = explain(asked, pool_of())
    assert not explanation.can_never_run
    (act,) = explanation.suggestions
    assert (act.field, act.nodes) == ("", 0)
    for words in ("65536 MiB of memory", "cpu_score 100", "H100", "in europe", "normal trust or more"):
        assert words in act.sentence


def test_a_node_that_is_gone_is_asked_for_where_nothing_else_would_do() -> None:
    explanation = explain(asks(node_id="gone", memory_gb=64), pool_of(node("a")))
    assert explanation.can_never_run
    assert sentences(explanation) == ["the owner of gone brings it back: it is not in the pool"]


def test_a_task_that_only_prefers_its_region_is_not_hopeless() -> None:
    asked = asks(region="africa", location_mode=LocationMode.PREFER)
    explanation = explain(asked, pool_of(node("a")))
    assert not explanation.can_never_run
    assert explanation.could_run == ("a",)
    assert values(explanation) == [("location", "asia"), ("location", "Any")]
    assert explain(replace(asked, relaxed=True), pool_of(node("a"))).decision.ranked == ("a",)


def test_the_smaller_share_comes_first_then_the_more_nodes() -> None:
    nodes = [
        node("a", capacity=replace(ROOM, memory_mb=7 * GIB)),
        node("b", capacity=replace(ROOM, memory_mb=32 * GIB), region="europe"),
    ]
    explanation = explain(asks(memory_gb=8, region="asia"), pool_of(*nodes))
    assert values(explanation) == [
        ("memory_gb", "7"),
        ("location_mode", "prefer"),
        ("location", "europe"),
        ("location", "Any"),
    ]


def test_a_default_above_a_gibibyte_is_not_taken_for_the_least() -> None:
    pool = pool_of(node("a", capacity=replace(ROOM, memory_mb=1500)), default_memory_mb=2048)
    for asked in (asks(memory_gb=4), asks()):
        assert values(explain(asked, pool)) == [("memory_gb", "1")]


def test_a_node_with_more_reserved_than_it_has_does_not_mislead() -> None:
    over = node("a", capacity=replace(ROOM, cpu_score=10), reserved=Claim(50, 0, 0, 0))
    assert values(explain(asks(cpu_score=20), pool_of(over))) == [("cpu_score", "0")]


AMOUNTS = st.integers(0, 6)
CLAIMS = st.builds(
    lambda cpu, memory, gpu, gpu_memory, tasks: Claim(cpu, memory * 300, gpu, gpu_memory, tasks=tasks),
    AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.integers(0, 3),
)  # fmt: skip
NODES = st.lists(
    st.builds(
        NodeView,
        node_id=st.sampled_from([f"n{number}" for number in range(6)]),
        tier=st.sampled_from(Tier),
        region=st.sampled_from(["asia", "europe", "africa"]),
        gpu_name=st.sampled_from(["", "X", "Y", "Z"]),
        draining=st.booleans(),
        online=st.booleans(),
        kind=st.sampled_from(NodeKind),
        capacity=CLAIMS,
        reserved=CLAIMS,
    ),
    max_size=6,
    unique_by=lambda view: view.node_id,
)
ASKED = st.builds(
    PlacementRequest,
    needs=st.builds(Resources, AMOUNTS, st.integers(0, 3), AMOUNTS, AMOUNTS),
    tier=st.sampled_from(Tier),
    min_trust=st.none() | st.sampled_from(Tier),
    region=st.sampled_from(["any", "asia", "europe", "oceania"]),
    location_mode=st.sampled_from(LocationMode),
    gpu_name=st.sampled_from(["", "x", "q"]),
    node_id=st.sampled_from(["", "", "n1", "gone"]),
    excluded=st.frozensets(st.sampled_from(["n1", "n2"])),
)


@given(ASKED, NODES)
def test_every_suggestion_places_the_task_when_it_is_followed(
    asked: PlacementRequest, nodes: list[NodeView]
) -> None:
    explanation = explain(asked, pool_of(*nodes))
    if explanation.decision.ranked:
        assert explanation.suggestions == ()
        return
    for suggestion in explanation.suggestions:
        if suggestion.field:
            later = suggestion.sentence.startswith(ONCE_IDLE)
            there = takers(followed(asked, suggestion), emptied(nodes) if later else nodes)
            assert there == suggestion.nodes if not later else there > 0
    assert explanation.suggestions or explanation.could_run


@given(ASKED, NODES, st.sampled_from(["cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb"]))
def test_a_lowered_amount_is_the_largest_that_places(
    asked: PlacementRequest, nodes: list[NodeView], field: str
) -> None:
    explanation = explain(asked, pool_of(*nodes))
    before = getattr(asked.needs, field)
    places = [
        amount
        for amount in range(before)
        if takers(replace(asked, needs=replace(asked.needs, **{field: amount})), nodes)
    ]
    if not explanation.decision.ranked:
        now = [one for one in explanation.suggestions if one.field == field and one.nodes]
        assert [int(one.value) for one in now] == places[-1:]


@given(ASKED, NODES)
def test_what_can_never_run_stays_out_of_an_idle_pool(asked: PlacementRequest, nodes: list[NodeView]) -> None:
    if explain(asked, pool_of(*nodes)).can_never_run:
        resting = [replace(view, online=True, draining=False) for view in emptied(nodes)]
        patient = replace(asked, relaxed=asked.location_mode is LocationMode.PREFER)
        assert takers(patient, resting) == 0


def test_the_owner_of_an_older_agent_is_asked_to_bring_it_up_to_date() -> None:
    pool = pool_of(node("eve/n"), node("bob", kind=NodeKind.PUSHED), allow_pushed=True)
    found = explain(asks(capabilities=frozenset({Capability.INPUTS})), pool)
    (act,) = found.suggestions
    assert act.sentence == (
        "the owner of eve/n brings its agent up to date: it is too old for what the task is given"
    )
    assert act.nodes == 1


def test_where_only_owners_tasks_run_somebody_elses_is_told_what_its_owner_could_do() -> None:
    pool = pool_of(node("eve/n", tier=Tier.LOW, owner_only=True, owner_id=7))
    found = explain(asks(owner_id=8), pool)
    assert found.can_never_run
    assert str(placement.OWNER_ONLY) in found.sentence()
    (act,) = found.suggestions
    assert act.sentence.startswith("the owner of eve/n installs bubblewrap or Docker")
    assert explain(asks(owner_id=7), pool).decision.ranked == ("eve/n",)
