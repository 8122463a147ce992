"""How often the whole fleet is looked at: by what a look computes, and hardly by how far away Redis is."""

from __future__ import annotations

import pytest

from dispatcher.placing.placement_loop import LookCost


@pytest.mark.parametrize(
    ("computed", "all_of_it", "pause"),
    [
        (0.001, 0.002, 1.0),
        (0.2, 0.2, 4.0),
        # Three round trips of 100 ms, and of 300 ms: not twenty times as long.
        (0.001, 0.301, 1.2),
        (0.001, 0.901, 2.5),
        (0.001, 30.0, 2.5),
        (0.2, 30.0, 4.0),
    ],
)
def test_the_pause_after_a_look(computed: float, all_of_it: float, pause: float) -> None:
    assert LookCost(computed, all_of_it).pause_seconds() == pytest.approx(pause)


def test_what_is_computed_is_told_from_what_is_waited_for() -> None:
    cost = LookCost()
    with cost.counted():
        sum(range(10_000))
    assert cost.computed_seconds > 0
    assert cost.seconds > 0
