"""Whose turn it is: the dispatcher's own order played through, and an honest word on how long it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.explain.explanation import PlacementExplanation, explain
from nodepool.domain.explain.pool_view import PoolView
from nodepool.domain.explain.wait_estimate import NOTHING_KNOWN, QueueOrder, estimate
from nodepool.domain.nodes.node import NodeView
from nodepool.domain.resources import Claim, Resources
from nodepool.domain.scheduling.placement import Requirements
from nodepool.domain.scheduling.request import PlacementRequest
from nodepool.domain.scheduling.wait_queue import Ageing, WaitingTask, WaitQueue
from nodepool.domain.tasks.states import LocationMode
from nodepool.domain.trust.tiers import Tier

NOW = 1_000_000.0
AGEING = Ageing(tier_seconds=600.0, priority_seconds=60.0, region_patience_seconds=30.0)
CLAIM = Claim(1000, 1024, 0, 0)


def task(task_id: str, **facts: Any) -> WaitingTask:
    tier = facts.pop("tier", Tier.HIGH)
    fields: dict[str, Any] = {"owner_id": 1, "priority": 5, "created_at": NOW, "queued_at": NOW, **facts}
    return WaitingTask(task_id=task_id, requirements=Requirements(claim=CLAIM, tier=tier), **fields)


def turns(*tasks: WaitingTask, served: dict[int, float] | None = None, **options: Any) -> QueueOrder:
    return QueueOrder(tasks, AGEING, served or {}, NOW, **options)


def test_places_count_from_one_and_a_stranger_has_none() -> None:
    queue = turns(task("old", created_at=NOW - 5), task("new"))
    assert (queue.place_of("old"), queue.place_of("new"), queue.place_of("?")) == ((1, 0), (2, 1), None)


def test_users_take_turns_however_many_tasks_one_has() -> None:
    many = [task(f"a{number}", created_at=NOW - 100 + number) for number in range(50)]
    queue = turns(*many, task("b", owner_id=2))
    assert queue.place_of("b") == (2, 1)


def test_who_was_served_lately_comes_after_who_was_not() -> None:
    queue = turns(task("a", created_at=NOW - 9), task("b", owner_id=2), served={1: 5.0})
    assert queue.place_of("b") == (1, 0)


def test_the_hopeless_have_a_place_but_hold_nobody_up() -> None:
    queue = turns(task("a", created_at=NOW - 9), task("b"), hopeless=frozenset({"a"}))
    assert queue.place_of("b") == (2, 0)


@pytest.mark.parametrize(
    ("newcomer", "place"),
    [
        (task("", tier=Tier.HIGH, owner_id=2), (2, 1)),
        (task("", tier=Tier.HIGH, priority=9), (2, 1)),
        (task("", tier=Tier.HIGH, priority=0), (4, 3)),
        (task("", tier=Tier.LOW, owner_id=2), (5, 4)),
    ],
)
def test_a_task_that_is_not_there_yet_is_told_where_it_would_be(
    newcomer: WaitingTask, place: tuple[int, int]
) -> None:
    mine = [task(f"a{age}", created_at=NOW - age) for age in (1200, 10, 9)]
    queue = turns(*mine, task("n", tier=Tier.NORMAL, owner_id=3))
    assert queue.place_for(newcomer) == place


TASKS = st.lists(
    st.builds(
        lambda number, owner, tier, priority, age: task(
            f"t{number}", owner_id=owner, tier=tier, priority=priority, created_at=NOW - age
        ),
        st.integers(0, 100), st.integers(1, 3), st.sampled_from(Tier), st.integers(0, 9),
        st.integers(0, 2000),
    ),
    max_size=20,
    unique_by=lambda one: one.task_id,
)  # fmt: skip
SERVED = st.dictionaries(st.integers(1, 3), st.floats(0, 5))


@given(TASKS, SERVED)
def test_everybody_has_one_place_and_the_first_is_whom_the_dispatcher_takes_first(
    tasks: list[WaitingTask], served: dict[int, float]
) -> None:
    queue = turns(*tasks, served=served)
    places = sorted(place for one in tasks if (place := queue.place_of(one.task_id)) is not None)
    assert [position for position, _ in places] == list(range(1, len(tasks) + 1))
    dispatchers = WaitQueue(AGEING, lambda owner_id: served.get(owner_id, 0.0))
    for one in tasks:
        dispatchers.add(one, NOW)
    if (head := dispatchers.head(NOW)) is not None:
        assert queue.place_of(head[0].task_id) == (1, 0)


@given(TASKS, SERVED, st.sampled_from(Tier))
def test_the_place_foretold_is_the_place_had(
    tasks: list[WaitingTask], served: dict[int, float], tier: Tier
) -> None:
    # Of one priority and with no other of its owner's: where an owner has more, a heap of theirs decides.
    newcomer = task("new", owner_id=9, tier=tier, priority=9)
    tasks = [replace(one, priority=9) for one in tasks]
    foretold = turns(*tasks, served=served).place_for(newcomer)
    assert turns(*tasks, newcomer, served=served).place_of("new") == foretold


# -- how long ----------------------------------------------------------------------------------------
ROOM = Claim(4000, 8192, 0, 0, tasks=4)
NOTHING = Claim(0, 0, 0, 0, tasks=0)


def node(**facts: Any) -> NodeView:
    fields: dict[str, Any] = {
        "node_id": "n", "tier": Tier.HIGH, "region": "asia", "gpu_name": "", "draining": False,
        "online": True, "capacity": ROOM, "reserved": NOTHING,
    }  # fmt: skip
    return NodeView(**{**fields, **facts})


def explained(*nodes: NodeView, **requested: Any) -> PlacementExplanation:
    memory_gb = requested.pop("memory_gb", 1)
    asked = PlacementRequest(needs=Resources(memory_gb=memory_gb), tier=Tier.HIGH, **requested)
    return explain(asked, PoolView.of(nodes, default_memory_mb=512, patience_seconds=30.0))


BUSY = node(reserved=ROOM)


@pytest.mark.parametrize(
    ("explanation", "starts", "seconds", "words"),
    [
        (explained(node()), 9, 0.0, "has room now"),
        (explained(), 9, NOTHING_KNOWN, "no node has joined"),
        (explained(BUSY, memory_gb=64), 9, NOTHING_KNOWN, "no node could ever run it"),
        (explained(node(online=False)), 9, NOTHING_KNOWN, "offline or draining"),
        (explained(BUSY), 0, NOTHING_KNOWN, "nothing was started in the last 10 minutes on the 1 node"),
        (explained(BUSY), 60, 40.0, "60 tasks were started in the last 10 minutes on the 1 node"),
        (
            explained(node(), region="africa", location_mode=LocationMode.PREFER),
            0,
            12.0,
            "after 12 s more it takes the nearest region",
        ),
    ],
)
def test_an_estimate_says_what_it_rests_on(
    explanation: PlacementExplanation, starts: int, seconds: float, words: str
) -> None:
    wait = estimate(explanation, ahead=3, starts=starts, window_seconds=600.0, patience_left=12.0)
    assert wait.seconds == seconds
    assert words in wait.basis


def test_the_estimate_says_how_many_are_before_it() -> None:
    for ahead, words in ((0, "none before it wait"), (2, "2 before it wait")):
        wait = estimate(explained(BUSY), ahead=ahead, starts=1, window_seconds=600.0, patience_left=0.0)
        assert wait.basis.endswith(words)
