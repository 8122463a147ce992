"""Who used how much lately: forward decay keeps the order of users, and halves what is old."""

from __future__ import annotations

import pytest

from nodepool.domain.resources import Claim
from nodepool.domain.scheduling.fair_share import Decay, cost_per_minute

HOUR = 3600.0
DECAY = Decay(half_life_seconds=HOUR)


def test_what_was_used_a_half_life_ago_counts_half() -> None:
    assert DECAY.weight(10 * HOUR) / DECAY.weight(9 * HOUR) == pytest.approx(2)


def test_weights_stay_finite_and_a_new_era_begins_small() -> None:
    end = 500 * HOUR - 1
    assert DECAY.weight(end) < 2.0**500
    assert DECAY.era(end) + 1 == DECAY.era(end + 2)
    assert DECAY.weight(end + 2) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    ("claim", "units"),
    [
        (Claim(0, 0, 0, 0), 0.25),
        (Claim(1000, 512, 0, 0), 1),
        (Claim(1000, 16384, 0, 0), 4),
        (Claim(0, 0, 3000, 8), 3),
        (Claim(0, 0, 0, 40), 5),
    ],
)
def test_a_task_costs_what_it_takes_most_of(claim: Claim, units: float) -> None:
    assert cost_per_minute(claim) == units
