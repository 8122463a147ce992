"""How often agents report: grows with the fleet, within bounds, and an agent believes no nonsense."""

from __future__ import annotations

import pytest

from nodepool.domain.nodes.report_interval import MAX_REPORTS_PER_SECOND, read_pace, report_period


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(0, 3.0), (1, 3.0), (1500, 3.0), (2000, 4.0), (2001, 4.002), (100_000, 6.0)]
)  # fmt: skip
def test_the_period_grows_with_the_number_of_nodes_up_to_half_the_lease(nodes: int, seconds: float) -> None:
    assert report_period(nodes, least_seconds=3.0, lease_seconds=12.0) == seconds
    if seconds < 6.0:
        assert nodes / seconds <= MAX_REPORTS_PER_SECOND


@pytest.mark.parametrize(("text", "seconds"), [("3", 3.0), ("0.25", 0.25), ("6", 6.0), (" 4.5\n", 4.5)])
def test_a_pace_within_bounds_is_read(text: str, seconds: float) -> None:
    assert read_pace(text, lease_seconds=12.0) == seconds


@pytest.mark.parametrize(
    "text",
    [None, "", "soon", "0", "-3", "0.2", "1e-9", "6.001", "1e99", "inf", "-inf", "nan", "3" * 40, "3;4"],
)
def test_any_other_pace_is_no_pace(text: str | None) -> None:
    assert read_pace(text, lease_seconds=12.0) is None


def test_what_the_pool_says_is_what_an_agent_believes() -> None:
    for nodes in (1, 5_000, 1_000_000):
        period = report_period(nodes, least_seconds=3.0, lease_seconds=12.0)
        assert read_pace(f"{period:g}", lease_seconds=12.0) == period
