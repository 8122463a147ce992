"""What is kept for a run: reclaimed with a margin, given back at once, and who goes when there is no room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.reclaim import (
    MIN_CPU_SCORE,
    MIN_MEMORY_MB,
    NEAR,
    WINDOW_SECONDS,
    MeasuredUse,
    ReclaimPlan,
    RunView,
    UsageWindow,
    plan,
)

CLAIM = Claim(cpu_score=1000, memory_mb=4096, gpu_score=100, gpu_memory_gb=4)
ROOM = Claim(cpu_score=8000, memory_mb=8192, gpu_score=100, gpu_memory_gb=8, tasks=8)
MARGIN = 0.25


def run(name: str, *, kept: int = 4096, cpu: int = 1000, claim: Claim = CLAIM, **facts: object) -> RunView:
    view = RunView(
        attempt_id=name,
        claim=claim,
        kept=replace(claim, memory_mb=kept, cpu_score=cpu),
        placed_at=0.0,
        credit_score=50,
    )
    return replace(view, **facts)  # type: ignore[arg-type]


def watched(name: str, memory_mb: int, cpu_score: int = 1000, **facts: object) -> RunView:
    """One that has used just that for long."""
    use = MeasuredUse(cpu_score, memory_mb)
    return run(name, last=use, peak=use, **facts)  # type: ignore[arg-type]


def memory_of(made: ReclaimPlan) -> dict[str, int]:
    return {name: claim.memory_mb for name, claim in made.allocations.items()}


def planned(*runs: RunView, room: Claim = ROOM, **how: bool) -> ReclaimPlan:
    return plan(runs, room=room, margin=MARGIN, **how)


def test_a_run_is_left_its_use_and_the_margin() -> None:
    assert planned(watched("a", 1000, 200)) == ReclaimPlan(
        {"a": replace(CLAIM, cpu_score=250, memory_mb=1250)}
    )


def test_nothing_is_taken_from_a_run_that_is_little_known() -> None:
    assert planned(run("a"), run("b", last=MeasuredUse(0, 1))) == ReclaimPlan({})


def test_a_run_keeps_a_floor_and_its_gpu() -> None:
    least = replace(CLAIM, cpu_score=MIN_CPU_SCORE, memory_mb=MIN_MEMORY_MB)
    assert planned(watched("a", 1, 0)) == ReclaimPlan({"a": least})


def test_a_claim_below_the_floor_stays_whole() -> None:
    small = Claim(cpu_score=10, memory_mb=32, gpu_score=0, gpu_memory_gb=0)
    assert planned(watched("a", 1, 0, kept=32, cpu=10, claim=small)) == ReclaimPlan({})


def test_small_changes_move_nothing() -> None:
    assert planned(watched("a", 1000, 950, kept=1300)) == ReclaimPlan({})
    assert memory_of(planned(watched("a", 1000, 950, kept=1400))) == {"a": 1250}


def test_an_allocation_grows_when_the_use_nears_it_and_never_over_the_claim() -> None:
    near = int(NEAR * 1250)
    assert planned(watched("a", near - 1, kept=1250)) == ReclaimPlan({})
    assert memory_of(planned(watched("a", near, kept=1250))) == {"a": 1407}
    assert memory_of(planned(watched("a", 4000, kept=1250))) == {"a": 4096}
    assert memory_of(planned(watched("a", 1 << 40, kept=1250))) == {"a": 4096}


def test_what_one_gives_up_another_can_have_at_once() -> None:
    made = planned(
        watched("idle", 1000, kept=4096),
        watched("grows", 2900, kept=3200),
        room=replace(ROOM, memory_mb=7296),
    )
    assert (memory_of(made), made.victim) == ({"idle": 1250, "grows": 3625}, "")


def test_a_run_in_no_danger_takes_what_room_there_is_and_evicts_nobody() -> None:
    made = planned(watched("a", 3000, kept=3200), run("b"), room=replace(ROOM, memory_mb=4096 + 3400))
    assert (memory_of(made), made.victim) == ({"a": 3400}, "")


FULL = replace(ROOM, memory_mb=4096 + 2048)


@pytest.mark.parametrize(
    ("other", "victim"),
    [
        ({"placed_at": 10.0}, "b"),
        ({"placed_at": -10.0}, "a"),
        ({"credit_score": 49, "placed_at": -10.0}, "b"),
        ({"credit_score": 51, "placed_at": 10.0}, "a"),
    ],
    ids=[
        "the younger",
        "the one that grows, when it is the younger",
        "the less trusted",
        "the less trusted one that grows",
    ],
)
def test_without_room_the_youngest_of_the_least_trusted_goes(other: dict[str, float], victim: str) -> None:
    made = planned(watched("a", 2048, kept=2048), run("b", **other), room=FULL)  # type: ignore[arg-type]
    assert made.victim == victim
    assert memory_of(made)[victim] == 0
    if victim == "b":
        assert memory_of(made)["a"] == 2560


def test_one_is_evicted_at_a_time() -> None:
    made = planned(
        watched("a", 4000, kept=4000),
        *(run(name, kept=60, placed_at=index + 1.0) for index, name in enumerate("bcd")),
        room=replace(ROOM, memory_mb=4000 + 180),
    )
    assert (made.victim, memory_of(made)["d"]) == ("d", 0)
    assert "c" not in made.allocations


def test_nobody_goes_while_the_caller_does_not_know_all() -> None:
    assert planned(watched("a", 2048, kept=2048), run("b"), room=FULL, may_evict=False) == ReclaimPlan({})


def test_under_pressure_everybody_gets_the_claim_back() -> None:
    made = planned(watched("a", 100, kept=200, cpu=100), watched("b", 100), restore=True)
    assert made == ReclaimPlan({"a": CLAIM})


def test_under_pressure_the_worst_goes_when_the_claims_do_not_fit() -> None:
    runs = [
        watched(name, 100, kept=200, credit_score=score) for name, score in (("a", 50), ("b", 10), ("c", 50))
    ]
    made = planned(*runs, restore=True)
    assert (made.victim, memory_of(made)) == ("b", {"a": 4096, "b": 0, "c": 4096})


def test_a_shortage_of_cpu_is_shared_by_claims_and_evicts_nobody() -> None:
    big, small = replace(CLAIM, cpu_score=3000), replace(CLAIM, cpu_score=1000)
    made = planned(
        watched("big", 10, 300, claim=big, cpu=300, kept=64),
        watched("small", 10, 1000, claim=small, cpu=1000, kept=64),
        watched("idle", 10, 0, claim=small, cpu=50, kept=64),
        room=replace(ROOM, cpu_score=1350),
    )
    assert made.victim == ""
    assert {name: claim.cpu_score for name, claim in made.allocations.items()} == {"big": 375, "small": 925}


def test_who_gets_nothing_needs_nothing() -> None:
    free = replace(CLAIM, cpu_score=0)
    assert planned(
        watched("a", 3900, 2000, claim=free, cpu=0), room=replace(ROOM, cpu_score=0)
    ) == ReclaimPlan({})


def test_the_use_that_counts_is_the_largest_of_the_window() -> None:
    watch = UsageWindow(since=1000.0)
    assert watch.peak(at=2000.0, after_seconds=60) is None
    watch.note(MeasuredUse(10, 700), 1000.0)
    watch.note(MeasuredUse(90, 100), 1001.0)
    assert watch.last == MeasuredUse(90, 100)
    assert watch.peak(at=1059.0, after_seconds=60) is None
    assert watch.peak(at=1060.0, after_seconds=60) == MeasuredUse(90, 700)
    watch.note(MeasuredUse(20, 200), 1000.0 + WINDOW_SECONDS - 60)
    assert watch.peak(at=1300.0, after_seconds=60) == MeasuredUse(90, 700)
    watch.note(MeasuredUse(5, 50), 1000.0 + WINDOW_SECONDS + 30)
    assert watch.peak(at=1400.0, after_seconds=60) == MeasuredUse(20, 200)


amounts = st.integers(0, 5000)
uses = st.builds(MeasuredUse, amounts, amounts)


@st.composite
def run_views(draw: st.DrawFn) -> RunView:
    claim = Claim(draw(amounts), draw(amounts), 0, 0)
    kept = replace(
        claim,
        cpu_score=draw(st.integers(0, claim.cpu_score)),
        memory_mb=draw(st.integers(0, claim.memory_mb)),
    )
    last = draw(st.none() | uses)
    peak = draw(st.none() | uses) if last else None
    if last and peak:
        peak = MeasuredUse(max(last.cpu_score, peak.cpu_score), max(last.memory_mb, peak.memory_mb))
    return RunView(
        attempt_id=str(draw(st.integers(0, 10**9))),
        claim=claim,
        kept=kept,
        placed_at=draw(st.integers(0, 9)),
        credit_score=draw(st.integers(0, 9)),
        last=last,
        peak=peak,
    )


@given(
    runs=st.lists(run_views(), max_size=6, unique_by=lambda view: view.attempt_id),
    spare=st.tuples(amounts, amounts),
    margin=st.floats(0, 4),
    restore=st.booleans(),
)
def test_allocations_fit_the_room_and_the_claims(
    runs: list[RunView], spare: tuple[int, int], margin: float, *, restore: bool
) -> None:
    room = Claim(
        sum(view.kept.cpu_score for view in runs) + spare[0],
        sum(view.kept.memory_mb for view in runs) + spare[1],
        0,
        0,
    )
    made = plan(runs, room=room, margin=margin, restore=restore)
    after = {view.attempt_id: made.allocations.get(view.attempt_id, view.kept) for view in runs}
    assert sum(claim.cpu_score for claim in after.values()) <= room.cpu_score
    assert sum(claim.memory_mb for claim in after.values()) <= room.memory_mb
    for view in runs:
        kept = after[view.attempt_id]
        assert 0 <= kept.cpu_score <= view.claim.cpu_score
        assert 0 <= kept.memory_mb <= view.claim.memory_mb
        assert (kept.gpu_score, kept.gpu_memory_gb, kept.tasks) == (0, 0, 1)
        if made.victim and view.attempt_id != made.victim:
            worst = next(other for other in runs if other.attempt_id == made.victim)
            assert (worst.credit_score, -worst.placed_at) <= (view.credit_score, -view.placed_at)
        elif not made.victim and view.last is not None:
            # Nobody is left to use more than is kept for it.
            assert kept.memory_mb >= min(view.last.memory_mb, view.claim.memory_mb) or restore


@given(view=run_views())
def test_a_second_look_at_the_same_changes_nothing(view: RunView) -> None:
    room = Claim(10_000, 10_000, 0, 0)
    made = plan([view], room=room, margin=MARGIN)
    again = replace(view, kept=made.allocations.get(view.attempt_id, view.kept))
    assert plan([again], room=room, margin=MARGIN) == ReclaimPlan({})
