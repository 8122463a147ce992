"""What a task costs: the formula to the last CPT, whatever is asked for."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from nodepool.domain.errors import InvalidInputError
from nodepool.domain.money.ledger import MAX_CPT, PriceTerms
from nodepool.domain.money.pricing import price_per_minute_cpt, started_minutes
from nodepool.domain.resources import MAX_AMOUNT, Resources

AMOUNTS = st.integers(0, MAX_AMOUNT)
NEEDS = st.builds(Resources, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS)
MOST = Resources(MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT, MAX_AMOUNT)


@pytest.mark.parametrize(
    ("needs", "price"),
    [
        (Resources(), 1),
        (Resources(cpu_score=1), 1),
        (Resources(cpu_score=100), 1),
        (Resources(cpu_score=101), 2),
        (Resources(memory_gb=1, cpu_score=1000), 11),
        (Resources(memory_gb=1, cpu_score=1001), 12),
        (Resources(memory_gb=1, memory_mb=512, cpu_score=150), 2),
        (Resources(memory_gb=2, memory_mb=1536, cpu_score=51), 3),
        (Resources(memory_gb=2, memory_mb=1536, cpu_score=50), 2),
        (Resources(cpu_score=20, gpu_score=30), 1),
        (Resources(cpu_score=50, gpu_score=51), 2),
        (Resources(cpu_score=1000, memory_gb=2, gpu_score=500, gpu_memory_gb=8), 25),
        (MOST, 20_200_000),
    ],
)
def test_the_price_of_a_started_minute(needs: Resources, price: int) -> None:
    assert price_per_minute_cpt(needs) == price


@given(NEEDS)
def test_the_price_is_the_formula_exactly(needs: Resources) -> None:
    total = (
        needs.memory_gb
        + Fraction(needs.cpu_score, 100)
        + Fraction(needs.gpu_score, 100)
        + needs.gpu_memory_gb
    )
    price = price_per_minute_cpt(needs)
    assert price == max(1, math.ceil(total))
    assert isinstance(price, int)


@given(NEEDS, st.sampled_from(["cpu_score", "memory_gb", "gpu_score", "gpu_memory_gb"]))
def test_asking_for_more_never_costs_less(needs: Resources, name: str) -> None:
    amounts = {field: getattr(needs, field) for field in Resources.__slots__}
    amounts[name] = min(MAX_AMOUNT, amounts[name] + 1)
    assert price_per_minute_cpt(Resources(**amounts)) >= price_per_minute_cpt(needs)


@given(NEEDS, st.integers(1, (1 << 31) - 1))
def test_what_is_held_is_the_price_of_the_longest_run_and_fits_the_database(
    needs: Resources, minutes: int
) -> None:
    held = PriceTerms(price_per_minute_cpt(needs), minutes).amount
    assert held == price_per_minute_cpt(needs) * minutes
    assert 1 <= held <= MAX_CPT


@pytest.mark.parametrize("minutes", [0, -1, MAX_CPT])
def test_a_hold_that_cannot_be_is_refused(minutes: int) -> None:
    with pytest.raises(InvalidInputError):
        PriceTerms(price_per_minute_cpt(MOST), minutes).amount  # noqa: B018


@pytest.mark.parametrize(
    ("milliseconds", "minutes"),
    [(-5, 1), (0, 1), (1, 1), (59_999, 1), (60_000, 1), (60_001, 2), (120_000, 2), (120_001, 3)],
)
def test_a_minute_that_has_begun_counts(milliseconds: int, minutes: int) -> None:
    assert started_minutes(milliseconds) == minutes


@given(st.integers(1, 10**15))
def test_started_minutes_cover_the_run_and_not_a_whole_minute_more(milliseconds: int) -> None:
    minutes = started_minutes(milliseconds)
    assert (minutes - 1) * 60_000 < milliseconds <= minutes * 60_000
