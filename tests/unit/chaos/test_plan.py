"""The seed, and nothing else, decides what a fault program does."""

from __future__ import annotations

import pytest

from tests.chaos.faults import _MAKERS
from tests.chaos.plan import CALM_SECONDS, KINDS, REFERENCE_SECONDS, Need, make_plan, needs

EVERYTHING = frozenset(Need) - {Need.SENTINEL}


def test_the_same_seed_makes_the_same_plan_and_another_another() -> None:
    assert make_plan(7, 300, (), EVERYTHING) == make_plan(7, 300, (), EVERYTHING)
    assert make_plan(7, 300, (), EVERYTHING) != make_plan(8, 300, (), EVERYTHING)


def test_a_plan_fits_into_its_time_with_calm_after_each_fault() -> None:
    plan = make_plan(1, 300, (), EVERYTHING)
    spent = sum(fault.seconds + fault.lasts + CALM_SECONDS for fault in plan.faults)
    assert plan.seconds == pytest.approx(REFERENCE_SECONDS + spent)
    assert 200 < plan.seconds <= 300


def test_every_kind_comes_before_one_comes_again() -> None:
    plan = make_plan(3, 10_000, (), EVERYTHING)
    possible = {
        f"{kind.name} {part}" for kind in KINDS for part in kind.parts if needs(kind, part) <= EVERYTHING
    }
    names = [fault.name for fault in plan.faults]
    assert set(names[: len(possible)]) == possible
    assert len(names) > len(possible)


def test_what_is_drawn_stays_within_its_kinds_bounds() -> None:
    kinds = {kind.name: kind for kind in KINDS}
    for fault in make_plan(5, 20_000, (), EVERYTHING).faults:
        least, most = kinds[fault.kind].seconds
        assert least <= fault.seconds <= most
        for name, (low, high) in kinds[fault.kind].parameters.items():
            assert low <= fault.parameters[name] <= high


def test_faults_are_chosen_by_kind_and_by_part() -> None:
    plan = make_plan(1, 600, ("flushall", "kill:agent"), EVERYTHING)
    assert {fault.name for fault in plan.faults} == {"flushall broker", "kill agent"}
    with pytest.raises(ValueError, match="no such fault: earthquake"):
        make_plan(1, 600, ("earthquake",), EVERYTHING)


def test_what_cannot_be_made_here_is_left_out() -> None:
    bare = make_plan(1, 10_000, (), {Need.ONE_BROKER})
    kinds = {fault.kind for fault in bare.faults}
    assert not kinds & {"full-disk", "clock", "sessions-ended", "failover"}
    assert not any(fault.part.endswith("database") for fault in bare.faults)
    with pytest.raises(ValueError, match="none of these"):
        make_plan(1, 600, ("failover",), EVERYTHING)


def test_several_come_two_at_a_time_and_cost_the_time_of_one() -> None:
    plan = make_plan(2, 2_000, (), EVERYTHING, several=True)
    pairs = [fault for fault in plan.faults if fault.together]
    assert pairs
    assert plan.seconds <= 2_000


def test_every_kind_can_be_made() -> None:
    assert set(_MAKERS) == {kind.name for kind in KINDS}
